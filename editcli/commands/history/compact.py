"""`editcli compact`: let what was trained with closed facts go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from typer import Exit

from editcli import exit_codes
from editcli.cli.options import RUNS_MODEL, WRITES, DryRunOption, Invocation, shared
from editcli.operations.editing.on_head import saved_on_head
from editcli.store.edits import edits_of
from editcli.store.records import Version
from editcli.store.store import Store
from editcli.store.transaction import Transaction
from editcli.wording import SHOW_ANSWERS, counted
from editors.methods.edit_state import EditState
from editors.model.saved_payload import Groups

if TYPE_CHECKING:
    from editcli.operations.session import Session


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
    if dry_run:
        parent = store.head()
        compacted = _Compacted(edits_of(store, parent))
        version = None
    else:
        compacting = _Compacting(call, store)
        version, parent, compacted = saved_on_head(
            call, store, compacting.compacted, compacting.save
        )
    edits, leaving, failed = compacted.edits, compacted.leaving, compacted.failed
    kept = {"facts": len(edits.in_force()), "closed_facts": len(edits.closed)}
    if call.json or call.quiet:
        out.record(
            {
                "version": version and version.id,
                "parent": parent.id,
                "dry_run": dry_run,
                "released": len(leaving),
                **kept,
                "iterations": compacted.iterations,
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


@dataclass(frozen=True, slots=True)
class _Compacted:
    """``edits``: those before, as they are stored. ``before`` and ``after``: loaded; None where
    nothing was done. ``failed``: the ids of facts that were trained again, and are not answered."""

    edits: EditState
    before: EditState | None = None
    after: EditState | None = None
    failed: tuple[str, ...] = ()
    iterations: int = 0

    @property
    def leaving(self) -> set[str]:
        return mostly_closed(self.edits)


@dataclass(frozen=True)
class _Compacting:
    """One call of the command."""

    call: Invocation
    store: Store

    @cached_property
    def session(self) -> Session:
        from editcli.operations.session import Session

        return Session.open(self.call, self.store)

    def compacted(self, head: Version) -> _Compacted:
        edits = edits_of(self.store, head)
        leaving = sorted(mostly_closed(edits))
        if not leaving:
            return _Compacted(edits)
        before = self.session.state(head)
        result = self.session.method.without(before, leaving)
        return _Compacted(edits, before, result.state, result.failed, result.iterations)

    def save(
        self, transaction: Transaction, head: Version, done: _Compacted
    ) -> tuple[Version | None, Version, _Compacted]:
        if done.before is None or done.after is None:
            return None, head, done
        version = self.session.publish(
            transaction,
            "compact",
            done.before,
            done.after,
            who=self.call.who,
            message=self.call.message,
            extra={
                "left": len(done.leaving),
                "iterations": done.iterations,
                "failed": list(done.failed),
            },
        )
        return version, head, done


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
