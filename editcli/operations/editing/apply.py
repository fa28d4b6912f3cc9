"""Applying facts to a store: the one path that ``edit`` and ``apply`` share."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from editcli.cli.console import Output
from editcli.cli.options import Invocation
from editcli.errors import Interrupted
from editcli.operations.editing.distributed import Ranks
from editcli.operations.interrupts import noticing_interrupts
from editcli.operations.scores.minima import Gate
from editcli.operations.session import Session
from editcli.store.files.journal import Journal
from editcli.wording import STALE_HEADS, counted
from editors import Fact

if TYPE_CHECKING:
    import torch

    from editors.methods.applying import Applied, Limits
    from editors.methods.edit_state import EditState

ALONE = Ranks()


@contextmanager
def _interruptible(out: Output) -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed inside ``with``; pressed again, it ends the block at once."""

    def tell() -> None:
        out.note(
            "stopping after the facts that are being trained; press Ctrl-C again to stop at once"
        )

    try:
        with noticing_interrupts(tell) as requested:
            yield requested
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted", "run the same command again to go on; finished work is kept"
        ) from None


class _ResumedJournal:
    """The journal of a store, which counts the entries of an earlier run that are used."""

    def __init__(self, journal: Journal) -> None:
        self._journal, self.put = journal, journal.put
        self.entries_used = 0

    def get(self, key: str) -> bytes | None:
        payload = self._journal.get(key)
        self.entries_used += payload is not None
        return payload


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """What applying facts did; the keys of its JSON are stable.

    ``unchanged``, ``updated`` (some of these, of which more is told now) and ``failed`` hold ids of
    facts; the JSON counts the first two. ``missed``: in
    words, the scores that are below a minimum. ``left``: how many facts were not reached.
    """

    version: str
    parent: str | None
    applied: int
    refused: int
    superseded: int
    unchanged: tuple[str, ...]
    updated: tuple[str, ...]
    failed: tuple[str, ...]
    missed: tuple[str, ...]
    left: int
    iterations: int
    seconds: float
    peak_memory_bytes: int

    def to_dict(self) -> dict[str, object]:
        each = self.seconds / self.applied if self.applied else 0.0
        return {
            **asdict(self),
            "unchanged": len(self.unchanged),
            "updated": len(self.updated),
            "seconds": round(self.seconds, 3),
            "seconds_per_edit": round(each, 4),
        }


def apply_facts(
    session: Session,
    facts: Sequence[Fact],
    call: Invocation,
    *,
    operation: str,
    refused: int = 0,
    limits: Limits | None = None,
    ranks: Ranks = ALONE,
    gate: Gate | None = None,
) -> ApplyResult:
    """Apply ``facts`` and publish the next version; where nothing changes, no version is made.

    With a ``gate``, a version that does not reach it is kept as rejected, and HEAD stays.

    The method trains the facts in groups, within ``limits``. After Ctrl-C the group in training is
    finished, and all finished groups are saved. A group that a killed run finished is not trained
    again. The other processes of ``ranks`` do their part with :func:`help_to_apply`.

    Raises:
        EditorError: another process writes to the store, or a fact cannot be trained.
        Interrupted: Ctrl-C was pressed twice; only the journal keeps what was finished.
    """
    from editors.methods.applying import UNLIMITED, Progress

    limits, out = limits or UNLIMITED, call.out
    started = time.monotonic()
    store = session.store
    journal = _ResumedJournal(store.journal)
    with call.writing(store) as transaction, _interruptible(out) as stop_requested:
        parent = store.head()
        state = session.state(parent)
        if ranks.count > 1:
            out.note(f"training on {ranks.count} processes")
            help_to_apply(session, facts, ranks, limits, state)
        with out.progress("editing", len(facts)) as bar:
            shown = 0

            def on_progress(progress: Progress) -> bool:
                nonlocal shown
                in_force = len(facts) - progress.total  # already, before this run
                bar.advance(in_force + progress.done - shown)
                shown = in_force + progress.done
                return not stop_requested()

            result = session.method.apply(
                state, facts, cache=journal, on_progress=on_progress, limits=limits
            )
        _tell_reworded(out, result)
        if journal.entries_used and ranks.count == 1:
            out.note(
                f"{counted(journal.entries_used, 'group')} of facts had been trained by a run that "
                "was stopped, and needed no training"
            )
        version = parent
        missed: list[str] = []
        if result.applied or result.updated:
            scores = None
            if gate:
                new = [result.state.facts[fact] for fact in (*result.applied, *result.updated)]
                missed, scores = gate.judged(session, result.state, new)
            version = session.publish(
                transaction,
                operation,
                state,
                result.state,
                rejected=bool(missed),
                who=call.who,
                message=call.message,
                extra={
                    "iterations": result.iterations,
                    "seconds": round(time.monotonic() - started, 3),
                    "failed": list(result.failed),
                    **({} if limits.chats else {"plain": True}),
                    **({"rejected": missed} if missed else {}),
                },
            )
            store.journal.clear()
            if scores:
                transaction.record_scores(version, scores, who=call.who)
            if missed:
                out.warn(
                    f"{version.id} is kept as rejected, and HEAD stays at {parent.id}: "
                    f"{'; '.join(missed)}",
                    f"`editcli checkout {version.id}` takes it all the same",
                )
            if result.state.stale:
                out.warn(*STALE_HEADS)
    return ApplyResult(
        version=version.id,
        parent=parent.id if version.id != parent.id else parent.parent,
        applied=len(result.applied),
        refused=refused,
        superseded=len(result.superseded),
        unchanged=result.unchanged,
        updated=result.updated,
        missed=tuple(missed),
        failed=result.failed,
        left=len(result.left),
        iterations=result.iterations,
        seconds=time.monotonic() - started,
        peak_memory_bytes=peak_memory(session.base.device),
    )


def _tell_reworded(out: Output, result: Applied) -> None:
    """Name the facts that were superseded by another wording of their question."""
    facts = result.state.facts
    pairs = [(facts[older], facts[newer]) for older, newer in result.superseded.items()]
    for older, newer in pairs:
        if older.prompt != newer.prompt:
            out.note(
                f"fact {older.id} ({older.prompt} -> {older.target}) asks what fact {newer.id} "
                f"({newer.prompt} -> {newer.target}) asks, and is superseded by it"
            )


def help_to_apply(
    session: Session,
    facts: Sequence[Fact],
    ranks: Ranks,
    limits: Limits,
    state: EditState | None = None,
) -> None:
    """Train this process's part of the facts; the first process finds it in the journal.

    ``state``: the edits before it (None: those of HEAD).

    Raises:
        EditorError: a fact cannot be trained.
    """
    state, journal = state or session.state(), session.store.journal
    with ranks.together():
        session.method.prepare(state, facts, cache=journal, takes=ranks.takes, limits=limits)


def peak_memory(device: torch.device) -> int:
    """The peak memory of this process in bytes: that of all GPUs where the base is on one, else
    main memory."""
    import torch

    if device.type == "cuda":
        return sum(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count())))
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
