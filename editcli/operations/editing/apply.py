"""Applying facts to a store: the one path that ``edit`` and ``apply`` share."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from editcli.cli.console import Output
from editcli.cli.options import Invocation
from editcli.errors import Interrupted
from editcli.operations.editing.distributed import Ranks
from editcli.operations.editing.id_clash import id_clash
from editcli.operations.editing.on_head import saved_on_head
from editcli.operations.interrupts import noticing_interrupts
from editcli.operations.scores.minima import Gate
from editcli.operations.session import Session
from editcli.store.records import Version
from editcli.store.run import Run
from editcli.store.transaction import Transaction
from editcli.wording import STALE_HEADS, counted, listed
from editors import EditorError, Fact

if TYPE_CHECKING:
    import torch

    from editors.methods.applying import Applied, Limits, Progress
    from editors.methods.edit_state import EditState

ALONE = Ranks()
SHOWN = 5  # ids in an error
NOTHING_SAVED = (
    "HEAD has moved meanwhile, and nothing is saved; what was trained is kept until you run the "
    "command again"
)


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

    Others may change the store while this trains: what is published is, bit for bit, what would
    have been if all of it had been done after them. With a ``gate``, a version that does not reach
    it is kept as rejected, and HEAD stays.

    The method trains the facts in groups, within ``limits``. After Ctrl-C the group in training is
    finished, and all finished groups are saved. A group that a killed run finished is not trained
    again. The other processes of ``ranks`` do their part with :func:`help_to_apply`.

    Raises:
        EditorError: a fact cannot be trained, or was purged meanwhile.
        StoreLocked: another process writes to the store for long; the journal keeps what was
            finished.
        Interrupted: Ctrl-C was pressed twice; only the journal keeps what was finished.
    """
    from editors.methods.applying import UNLIMITED

    started = time.monotonic()
    store = session.store
    with store.run() as run, _interruptible(call.out) as stop_requested:
        applying = _Applying(
            session,
            facts,
            call,
            run,
            operation,
            limits or UNLIMITED,
            ranks,
            gate,
            stop_requested,
            started,
        )
        version, parent, trained = saved_on_head(call, store, applying.train, applying.save)
    result = trained.result
    return ApplyResult(
        version=version.id,
        parent=parent.id if version.id != parent.id else parent.parent,
        applied=len(result.applied),
        refused=refused,
        superseded=len(result.superseded),
        unchanged=result.unchanged,
        updated=result.updated,
        missed=tuple(trained.missed),
        failed=result.failed,
        left=len(result.left),
        iterations=result.iterations,
        seconds=time.monotonic() - started,
        peak_memory_bytes=peak_memory(session.base.device),
    )


@dataclass(frozen=True, slots=True)
class _Trained:
    """What training gave: the edits ``before`` it, and its ``result``; what that ``missed`` of the
    minima, in words, and its ``scores``, None without a gate."""

    before: EditState
    result: Applied
    missed: Sequence[str] = ()
    scores: Mapping[str, object] | None = None


@dataclass
class _Applying:
    """One call of :func:`apply_facts`, and what it keeps from one round of
    :func:`~editcli.operations.editing.on_head.saved_on_head` to the next: ``reached``, how many
    facts were trained when Ctrl-C was pressed, and whether the other processes were called
    (``met``)."""

    session: Session
    facts: Sequence[Fact]
    call: Invocation
    run: Run
    operation: str
    limits: Limits
    ranks: Ranks
    gate: Gate | None
    stop_requested: Callable[[], bool]
    started: float
    reached: int = 0
    met: bool = False

    def train(self, head: Version) -> _Trained:
        """Train the facts after those of ``head``. Raises EditorError where one cannot be trained
        any more, after what others did meanwhile."""
        session, facts, out = self.session, self.facts, self.call.out
        state = session.state(head)
        self._require_not_purged(state.facts)
        if self.met:
            # The caller has asked this of the version that was HEAD then.
            for fact in facts:
                if reason := id_clash(session.store, head, state, fact):
                    raise EditorError(f"{fact.prompt!r}: {reason}", NOTHING_SAVED)
        elif self.ranks.count > 1:
            out.note(f"training on {self.ranks.count} processes")
            _prepare(session, facts, self.ranks, self.limits, state, self.run)
        resumed, self.met = self.run.resumed, True
        with out.progress("editing", len(facts)) as bar:

            def on_progress(progress: Progress) -> bool:
                in_force = len(facts) - progress.total  # already, before this run
                done = in_force + progress.done
                bar.reach(done)
                if not self.stop_requested():
                    self.reached = max(self.reached, done)
                return done < self.reached or not self.stop_requested()

            result = session.method.apply(
                state, facts, cache=self.run, on_progress=on_progress, limits=self.limits
            )
        if self.run.resumed > resumed and self.ranks.count == 1:
            out.note(
                f"{counted(self.run.resumed, 'group')} of facts had been trained by a run that "
                "was stopped, and needed no training"
            )
        if not (self.gate and (result.applied or result.updated)):
            return _Trained(state, result)
        new = [result.state.facts[fact] for fact in (*result.applied, *result.updated)]
        return _Trained(state, result, *self.gate.judged(session, result.state, new))

    def save(
        self, transaction: Transaction, head: Version, trained: _Trained
    ) -> tuple[Version, Version, _Trained]:
        """The version after ``head`` with what was trained, ``head`` itself where nothing was; and
        what was given."""
        call, out, result, missed = self.call, self.call.out, trained.result, trained.missed
        self._require_not_purged(())
        _tell_reworded(out, result)
        if not (result.applied or result.updated):
            return head, head, trained
        version = self.session.publish(
            transaction,
            self.operation,
            trained.before,
            result.state,
            rejected=bool(missed),
            who=call.who,
            message=call.message,
            extra={
                "iterations": result.iterations,
                "seconds": round(time.monotonic() - self.started, 3),
                "failed": list(result.failed),
                **({} if self.limits.chats else {"plain": True}),
                **({"rejected": list(missed)} if missed else {}),
            },
        )
        self.run.forget()
        if trained.scores:
            transaction.record_scores(version, trained.scores, who=call.who)
        if missed:
            out.warn(
                f"{version.id} is kept as rejected, and HEAD stays at {head.id}: "
                f"{'; '.join(missed)}",
                f"`editcli checkout {version.id}` takes it all the same",
            )
        if result.state.stale:
            out.warn(*STALE_HEADS)
        return version, head, trained

    def _require_not_purged(self, others: Iterable[str]) -> None:
        """Raise EditorError where one of the facts was purged since this was called first: whoever
        purged it did not know of this work. ``others``: facts that it relies on from now on."""
        ids = [fact.id for fact in self.facts]
        self.run.relies_on(others)
        if purged := self.run.relies_on(ids):
            raise EditorError(
                f"{listed(purged, SHOWN)} {'was' if len(purged) == 1 else 'were'} purged while "
                "this was being trained, so nothing is saved",
                "leave such facts out; or run the same command again to enter them all the same",
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
) -> None:
    """Train this process's part of the facts; the first process finds it in the journal.

    Raises:
        EditorError: a fact cannot be trained.
    """
    with session.store.run() as run:
        state = session.state()
        run.relies_on(state.facts)
        _prepare(session, facts, ranks, limits, state, run)


def _prepare(
    session: Session,
    facts: Sequence[Fact],
    ranks: Ranks,
    limits: Limits,
    state: EditState,
    run: Run,
) -> None:
    """Train this process's part of the facts after ``state``, and wait for the others."""
    with ranks.together():
        session.method.prepare(state, facts, cache=run, takes=ranks.takes, limits=limits)


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
