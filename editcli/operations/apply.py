"""Applying facts to a store: the one path that ``edit`` and ``apply`` share."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from editcli.cli.console import Output
from editcli.cli.invocation import Invocation, counted
from editcli.errors import Interrupted
from editcli.operations.distributed import Ranks
from editcli.operations.session import Session
from editcli.store.journal import Journal
from editors import Fact

if TYPE_CHECKING:
    from editors.methods.base import Limits
    from editors.methods.edit_state import EditState

ALONE = Ranks()


class Interruption:
    """Whether Ctrl-C was pressed: the first press asks to stop, a second one stops at once."""

    def __init__(self) -> None:
        self.wanted = False

    @contextmanager
    def heeded(self, out: Output) -> Iterator[None]:
        """Take Ctrl-C as a wish to stop after the facts in hand."""

        def ask(number: int, frame: FrameType | None) -> None:
            if self.wanted:
                raise KeyboardInterrupt
            self.wanted = True
            out.note("stopping after the facts in hand; press Ctrl-C again to stop at once")

        previous = signal.signal(signal.SIGINT, ask)
        try:
            yield
        except KeyboardInterrupt:
            raise Interrupted(
                "interrupted", "run the same command again to go on; what is finished is kept"
            ) from None
        finally:
            signal.signal(signal.SIGINT, previous)


class _ResumedJournal:
    """The journal of a store, counting what an earlier run left in it."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.found = 0

    def get(self, key: str) -> bytes | None:
        payload = self._journal.get(key)
        self.found += payload is not None
        return payload

    def put(self, key: str, payload: bytes) -> None:
        self._journal.put(key, payload)


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """What was done, as the stable JSON keys say it.

    ``unchanged`` and ``failed`` hold ids of facts, the JSON only counts the former; ``left`` facts
    were not reached.
    """

    version: str
    parent: str | None
    applied: int
    refused: int
    superseded: int
    unchanged: tuple[str, ...]
    failed: tuple[str, ...]
    left: int
    iterations: int
    seconds: float
    peak_memory_bytes: int

    def to_dict(self) -> dict[str, object]:
        each = self.seconds / self.applied if self.applied else 0.0
        return {
            "version": self.version,
            "parent": self.parent,
            "applied": self.applied,
            "refused": self.refused,
            "superseded": self.superseded,
            "unchanged": len(self.unchanged),
            "failed": list(self.failed),
            "left": self.left,
            "iterations": self.iterations,
            "seconds": round(self.seconds, 3),
            "seconds_per_edit": round(each, 4),
            "peak_memory_bytes": self.peak_memory_bytes,
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
) -> ApplyResult:
    """Apply ``facts`` and publish the next version; where nothing changes, no version is made.

    Facts are taken in as the method sees fit, within ``limits``. After Ctrl-C those in hand are
    finished and what is done is saved; what a killed run had finished is not done again. The other
    processes of ``ranks`` do their part with :func:`help_to_apply`.

    Raises:
        EditorError: another process writes to the store, or a fact cannot be trained.
        Interrupted: Ctrl-C was pressed twice; nothing is saved but what the journal holds.
    """
    from editors.methods.base import UNLIMITED, Progress

    limits, out = limits or UNLIMITED, call.out
    started = time.monotonic()
    interruption = Interruption()
    store = session.store
    journal = _ResumedJournal(store.journal)
    with store.writing(call.command) as transaction, interruption.heeded(out):
        parent = store.head()
        state = session.state(parent)
        if ranks.count > 1:
            out.note(f"training on {ranks.count} processes")
            _prepare(session, state, facts, limits, ranks)
        with out.progress("editing", len(facts)) as bar:
            shown = 0

            def on_progress(progress: Progress) -> bool:
                nonlocal shown
                done = len(facts) - progress.total + progress.done  # some were in force already
                bar.advance(done - shown)
                shown = done
                return not interruption.wanted

            done = session.method.apply(
                state, facts, cache=journal, on_progress=on_progress, limits=limits
            )
        if journal.found and ranks.count == 1:
            out.note(
                f"{counted(journal.found, 'group')} of facts had been trained by a run that was "
                "stopped, and needed no training"
            )
        version = parent
        if done.applied:
            version = session.publish(
                transaction,
                operation,
                done.state,
                added=done.applied,
                superseded=tuple(done.superseded),
                author=call.who,
                message=call.message,
                extra={
                    "iterations": done.iterations,
                    "seconds": round(time.monotonic() - started, 3),
                    "failed": list(done.failed),
                },
            )
            store.journal.clear()
            if done.state.stale:
                out.warn(
                    "the pruned heads were ranked with other edits in force",
                    "`editcli conflict resolve` ranks them again",
                )
    return ApplyResult(
        version=version.id,
        parent=parent.id if version.id != parent.id else parent.parent,
        applied=len(done.applied),
        refused=refused,
        superseded=len(done.superseded),
        unchanged=done.unchanged,
        failed=done.failed,
        left=len(done.left),
        iterations=done.iterations,
        seconds=time.monotonic() - started,
        peak_memory_bytes=peak_memory(),
    )


def help_to_apply(session: Session, facts: Sequence[Fact], ranks: Ranks, limits: Limits) -> None:
    """Train this process's part of what the first process applies, and leave it to that one.

    Raises:
        EditorError: a fact cannot be trained.
    """
    _prepare(session, session.state(), facts, limits, ranks)


def _prepare(
    session: Session,
    state: EditState,
    facts: Sequence[Fact],
    limits: Limits,
    ranks: Ranks,
) -> None:
    with ranks.together():
        session.method.prepare(
            state, facts, cache=session.store.journal, mine=ranks.takes, limits=limits
        )


def peak_memory() -> int:
    """The largest memory this process has held, in bytes (on an accelerator: its own)."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
