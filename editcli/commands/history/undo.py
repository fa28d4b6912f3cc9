"""`editcli undo`: take edits back, as a new version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Annotated, Any

from typer import Argument, Exit, Option

from editcli import exit_codes
from editcli.cli.options import RUNS_MODEL, WRITES, DryRunOption, Invocation, shared
from editcli.errors import UsageError
from editcli.models.libraries import tools
from editcli.store.edits import edits_of, publish_closing
from editcli.store.records import Version
from editcli.store.transaction import Transaction
from editcli.wording import SHOW_ANSWERS, STALE_HEADS, counted
from editors import METHODS, EditorError, Fact, FactClosure
from editors.methods.edit_state import EditState


@shared(*WRITES, *RUNS_MODEL)
def command(
    call: Invocation,
    facts: Annotated[
        list[str] | None,
        Argument(metavar="FACT", help="Facts in force, each by its id or the start of its id."),
    ] = None,
    heads: Annotated[
        bool, Option("--heads", help="Take back the pruning of heads, with or without facts.")
    ] = False,
    dry_run: DryRunOption = False,
) -> None:
    """Take edits back and save that as a new version.

    Prompts of these facts get the base model's answers again, and all others are answered as
    before. No model is loaded. Where the method undoes by retraining (`editcli methods` says
    which), the model is loaded, and the facts that stay are trained again.

    An older fact that was superseded does not come back: apply it again. Either everything that is
    named is taken back, or nothing.

    \b
    Examples:
      editcli undo 721d9f70c0ae -m "it was a joke"
      editcli undo 721d 1f3a --dry-run
      editcli undo --heads
    """
    if not (facts or heads):
        raise UsageError("no fact was given", "`editcli undo FACT` or `editcli undo --heads`")
    out, store = call.out, call.open_store()
    with nullcontext() if dry_run else store.writing(call.command) as transaction:
        parent = store.head()
        edits = edits_of(store, parent)
        undone = _in_force(edits, parent, facts or ())
        ids = [fact.id for fact in undone]
        remaining = _without(edits, parent, ids, heads=heads)
        extra = {"heads": heads, "stale": remaining.stale}
        version = transaction and _publish(call, transaction, parent, remaining, ids, extra)
    if call.json or (call.quiet and version):
        new = version and version.id
        out.record({"version": new, "parent": parent.id, "undone": ids, **extra})
    else:
        named = [counted(len(ids), "fact")] * bool(ids) + ["the pruned heads"] * heads
        done = f"{version.id}: took back" if version else "would take back"
        out.text(f"{done} {' and '.join(named)}")
        if undone:
            out.table(
                {"fact": fact.id, "prompt": fact.prompt, "target": fact.target} for fact in undone
            )
    failed: Any = version.extra.get("failed") if version else None
    if failed:
        out.warn(f"trained again, but not answered by the model: {', '.join(failed)}", SHOW_ANSWERS)
    if remaining.stale:
        out.warn(*STALE_HEADS)
    if failed:
        raise Exit(exit_codes.FAILED)


def _in_force(edits: EditState, version: Version, prefixes: Sequence[str]) -> list[Fact]:
    """The facts that these ids mean, each once. Raises EditorError for one not in force."""
    facts = {fact.id: fact for fact in map(edits.find, prefixes)}
    for fact_id in facts:
        if closure := edits.closed.get(fact_id):
            by = f" by {closure.replaced_by}" if closure.replaced_by else ""
            raise EditorError(
                f"fact {fact_id} is not in force in {version.id}: it was {closure.reason}{by}",
                f"`editcli show {fact_id}` shows when and by whom",
            )
    return list(facts.values())


def _without(edits: EditState, version: Version, ids: Sequence[str], *, heads: bool) -> EditState:
    """The edits of a version without those that are taken back.

    Raises EditorError when no heads are pruned, or single facts cannot be taken back.
    """
    if heads and edits.pruning is None:
        raise EditorError(
            f"no heads are pruned in {version.id}",
            "`editcli log --operation resolve` lists the versions that pruned heads",
        )
    if ids and (reason := METHODS.load(edits.method).why_no_undo(edits.settings)):
        raise EditorError(reason, "`editcli checkout V` goes back to a version without the fact")
    remaining = edits.closing(dict.fromkeys(ids, FactClosure("undone")))
    return replace(remaining, pruning=None) if heads else remaining


def _publish(
    call: Invocation,
    transaction: Transaction,
    parent: Version,
    remaining: EditState,
    ids: Sequence[str],
    extra: Mapping[str, object],
) -> Version:
    """Publish the ``remaining`` edits, trained again where the method undoes by retraining."""
    if not ids or METHODS.load(remaining.method).undo == "exact":
        return publish_closing(
            transaction,
            "undo",
            parent,
            remaining,
            removed=ids,
            author=call.who,
            message=call.message,
            tools=tools(),
            extra=extra,
        )

    from editcli.operations.session import Session

    session = Session.open(call)
    result = session.method.remove(session.state(parent), ids)
    return session.publish(
        transaction,
        "undo",
        replace(result.state, pruning=remaining.pruning and result.state.pruning),
        removed=ids,
        author=call.who,
        message=call.message,
        extra={**extra, "iterations": result.iterations, "failed": list(result.failed)},
    )
