"""`editcli undo`: take edits back, as a new version."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from editcli.cli.console import Output
from editcli.cli.context import author as acting
from editcli.cli.context import command_words, open_store
from editcli.cli.options import (
    AuthorOption,
    DryRunOption,
    JsonOption,
    MessageOption,
    QuietOption,
    StoreOption,
)
from editcli.errors import UsageError
from editcli.store.ledger import Ledger
from editcli.store.store import Store, Version
from editors import Closed, EditorError, Fact

if TYPE_CHECKING:
    from editors.methods.edit_state import EditState


def command(
    facts: Annotated[
        list[str] | None,
        typer.Argument(metavar="FACT", help="Facts in force, each by its id or the start of it."),
    ] = None,
    heads: Annotated[
        bool, typer.Option("--heads", help="Take back the pruning of heads too, or alone.")
    ] = False,
    message: MessageOption = "",
    author: AuthorOption = None,
    store: StoreOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Take edits back and save that as a new version; no model is loaded.

    A fact's prompts are answered by the base model again, every other prompt exactly as before.
    A fact that took the place of an older one does not bring the older one back: apply that again.
    What was trained stays in its shard, behind a closed gate. Either all that is named is taken
    back, or nothing.

    \b
    Examples:
      editcli undo 721d9f70c0ae -m "it was a joke"
      editcli undo 721d 1f3a --dry-run
      editcli undo --heads
    """
    from editcli.operations.session import Workspace, state_of

    out = Output(json_mode=json, quiet=quiet)
    if not (facts or heads):
        raise UsageError("nothing is named to take back", "`editcli undo FACT` or `--heads`")
    opened = open_store(store)
    with nullcontext() if dry_run else opened.writing(command_words()) as transaction:
        parent = opened.head()
        undone = _in_force(opened, parent, facts or ())
        state = _without(state_of(opened, parent), parent, undone, heads=heads)
        made = None
        if transaction is not None:
            made = Workspace.publish(
                transaction,
                "undo",
                state,
                removed=[fact.id for fact in undone],
                author=acting(author),
                message=message,
                extra={"heads": heads, "stale": state.stale},
            ).id
    if json or (quiet and made):
        out.record(
            {
                "version": made,
                "parent": parent.id,
                "undone": [fact.id for fact in undone],
                "heads": heads,
                "stale": state.stale,
            }
        )
    else:
        _print(out, made, undone, heads=heads)
    if state.stale:
        out.warn(
            "the pruned heads were ranked with other edits in force",
            "`editcli conflict resolve` ranks them again",
        )


def _in_force(store: Store, version: Version, wanted: Sequence[str]) -> list[Fact]:
    """The facts that are meant, each once. Raises EditorError for one that is not in force."""
    ledger = Ledger.of(store, version)
    found = {fact.id: fact for fact in map(ledger.find, wanted)}
    for fact_id in found:
        if closed := ledger.closed.get(fact_id):
            by = f" by {closed.by}" if closed.by else ""
            raise EditorError(
                f"fact {fact_id} is not in force in {version.id}: it was {closed.why}{by}",
                f"`editcli show {fact_id}` tells when and by whom",
            )
    return list(found.values())


def _without(
    state: EditState, version: Version, undone: Sequence[Fact], *, heads: bool
) -> EditState:
    """The edits of a version without these.

    Raises EditorError when no heads are pruned, or the router cannot keep one fact from answering.
    """
    if heads and state.resolution is None:
        raise EditorError(
            f"no heads are pruned in {version.id}",
            "`editcli log --operation resolve` lists the versions that pruned heads",
        )
    if undone and not state.router:
        raise EditorError(
            "this store's router goes by activations, which no single fact can be taken out of",
            "`editcli checkout V` goes back to a version without the fact",
        )
    closed = state.closing({fact.id: Closed("undone") for fact in undone})
    return replace(closed, resolution=None) if heads else closed


def _print(out: Output, made: str | None, undone: Sequence[Fact], *, heads: bool) -> None:
    count = len(undone)
    named = [f"{count} fact{'s' * (count != 1)}"] * bool(undone) + ["the pruned heads"] * heads
    taken = " and ".join(named)
    out.text(f"{made}: took back {taken}" if made else f"would take back {taken}")
    if undone:
        out.table(
            ({"fact": f.id, "prompt": f.prompt, "target": f.target} for f in undone),
            ["fact", "prompt", "target"],
        )
