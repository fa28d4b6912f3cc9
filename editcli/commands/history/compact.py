"""`editcli compact`: let what was trained with closed facts go."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

from typer import Exit

from editcli import exit_codes
from editcli.cli.options import RUNS_MODEL, WRITES, DryRunOption, Invocation, shared
from editcli.store.edits import edits_of
from editcli.store.records import Version
from editcli.wording import SHOW_ANSWERS, counted
from editors.methods.edit_state import EditState
from editors.model.saved_payload import Groups


@shared(*WRITES, *RUNS_MODEL)
def command(call: Invocation, dry_run: DryRunOption = False) -> None:
    """Rebuild what was trained mostly with facts that are no longer in force.

    Superseded and undone facts leave what the method keeps, so that a store of many years opens as
    fast as a new one. Facts in force that were trained together with them are trained again. The
    new version believes the same; earlier versions stay as they are.

    \b
    Examples:
      editcli compact --dry-run
      editcli compact -m "after a year"
    """
    out, store = call.out, call.open_store()
    with nullcontext() if dry_run else call.writing(store) as transaction:
        parent = store.head()
        edits = edits_of(store, parent)
        leaving = mostly_closed(edits)
        version: Version | None = None
        failed: tuple[str, ...] = ()
        iterations = 0
        if leaving and transaction:
            from editcli.operations.session import Session

            session = Session.open(call, store)
            before = session.state(parent)
            result = session.method.without(before, sorted(leaving))
            failed, iterations = result.failed, result.iterations
            version = session.publish(
                transaction,
                "compact",
                before,
                result.state,
                who=call.who,
                message=call.message,
                extra={"left": len(leaving), "iterations": iterations, "failed": list(failed)},
            )
    kept = {"facts": len(edits.in_force()), "closed_facts": len(edits.closed)}
    if call.json or call.quiet:
        out.record(
            {
                "version": version and version.id,
                "parent": parent.id,
                "dry_run": dry_run,
                "released": len(leaving),
                **kept,
                "iterations": iterations,
                "failed": list(failed),
            }
        )
    elif not leaving:
        out.text(
            f"nothing to rebuild: {counted(kept['closed_facts'], 'closed fact')} in what is kept"
        )
    else:
        verb = "lets" if version else "would let"
        name = version.id if version else "this"
        out.text(f"{name} {verb} {counted(len(leaving), 'closed fact')} go")
    if failed:
        out.warn(f"trained again, but not answered: {', '.join(failed)}", SHOW_ANSWERS)
        raise Exit(exit_codes.FAILED)


def mostly_closed(edits: EditState) -> set[str]:
    """The closed facts in the blobs that were made from closed facts by half or more."""
    closed = set(edits.closed)
    made_from: Iterable[Groups] = edits.payload.made_from.values()
    leaving: set[str] = set()
    for groups in made_from:
        facts = {fact for group in groups for fact in group}
        gone = facts & closed
        if 2 * len(gone) >= len(facts):
            leaving |= gone
    return leaving
