"""`editcli undo`: take edits back, as a new version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Annotated, Any

import typer

from editcli import exit_codes
from editcli.cli.console import Output
from editcli.cli.invocation import Invocation
from editcli.cli.options import RUNS_MODEL, WRITES, DryRunOption, shared
from editcli.errors import UsageError
from editcli.models.libraries import tools
from editcli.store.edits import edits_of, publish_closing
from editcli.store.records import Version
from editcli.store.transaction import Transaction
from editcli.wording import STALE_HEADS, counted
from editors import METHODS, EditorError, Fact, FactClosure
from editors.methods.edit_state import EditState


@shared(*WRITES, *RUNS_MODEL)
def command(
    call: Invocation,
    facts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FACT", help="Facts in force, each by its id or the start of its id."
        ),
    ] = None,
    heads: Annotated[
        bool, typer.Option("--heads", help="Take back the pruning of heads, with or without facts.")
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
        raise UsageError(
            "nothing is named to take back", "`editcli undo FACT` or `editcli undo --heads`"
        )
    out, store = call.out, call.open_store()
    with nullcontext() if dry_run else store.writing(call.command) as transaction:
        parent = store.head()
        edits = edits_of(store, parent)
        undone = _in_force(edits, parent, facts or ())
        remaining = _without(edits, parent, undone, heads=heads)
        version = None
        if transaction:
            extra = {"heads": heads, "stale": remaining.stale}
            version = _publish(call, transaction, parent, remaining, undone, extra)
    if call.json or (call.quiet and version):
        out.record(
            {
                "version": version.id if version else None,
                "parent": parent.id,
                "undone": [fact.id for fact in undone],
                "heads": heads,
                "stale": remaining.stale,
            }
        )
    else:
        _print(out, version, undone, heads=heads)
    failed: Any = version.extra.get("failed") if version else None
    if failed:
        out.warn(
            f"trained again, but not answered by the model: {', '.join(failed)}",
            "`editcli check --per-fact` shows what the model says",
        )
    if remaining.stale:
        out.warn(*STALE_HEADS)
    if failed:
        raise typer.Exit(exit_codes.FAILED)


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


def _without(
    edits: EditState, version: Version, undone: Sequence[Fact], *, heads: bool
) -> EditState:
    """The edits of a version without those that are taken back.

    Raises EditorError when no heads are pruned, or single facts cannot be taken back.
    """
    if heads and edits.pruning is None:
        raise EditorError(
            f"no heads are pruned in {version.id}",
            "`editcli log --operation resolve` lists the versions that pruned heads",
        )
    if undone and (reason := METHODS.load(edits.method).why_no_undo(edits.settings)):
        raise EditorError(reason, "`editcli checkout V` goes back to a version without the fact")
    remaining = edits.closing({fact.id: FactClosure("undone") for fact in undone})
    return replace(remaining, pruning=None) if heads else remaining


def _publish(
    call: Invocation,
    transaction: Transaction,
    parent: Version,
    remaining: EditState,
    undone: Sequence[Fact],
    extra: Mapping[str, object],
) -> Version:
    """Publish the ``remaining`` edits, trained again where the method undoes by retraining."""
    ids = [fact.id for fact in undone]
    if not undone or METHODS.load(remaining.method).undo == "exact":
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


def _print(out: Output, version: Version | None, undone: Sequence[Fact], *, heads: bool) -> None:
    parts = [counted(len(undone), "fact")] * bool(undone) + ["the pruned heads"] * heads
    named = " and ".join(parts)
    out.text(f"{version.id}: took back {named}" if version else f"would take back {named}")
    if undone:
        out.table(
            ({"fact": f.id, "prompt": f.prompt, "target": f.target} for f in undone),
            ["fact", "prompt", "target"],
        )
