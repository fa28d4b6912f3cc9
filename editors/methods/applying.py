"""What applying facts takes and gives: limits, a cache of nothing, progress, and results."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from editors.methods.edit_state import EditState


@dataclass(frozen=True, slots=True)
class Progress:
    """``done`` of ``total`` facts are applied, with ``iterations`` training steps so far."""

    done: int
    total: int
    iterations: int


@dataclass(frozen=True, slots=True)
class Applied:
    """The result of applying or removing facts.

    ``applied``: ids that are newly in force; ``unchanged``: ids that were in force before;
    ``updated``: ids in force of which more is told now, without training;
    ``superseded``: closed id -> the id that replaced it; ``failed``: ids that were trained without
    success (they are in force, and ``check`` shows them); ``left``: ids that were not reached
    before an early stop; ``iterations``: the training steps taken.
    """

    state: EditState
    applied: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    superseded: Mapping[str, str] = field(default_factory=dict)
    failed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    iterations: int = 0


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of training a group: the ids that were ``judged`` at its end, those of them that
    ``failed``, and the training steps taken (``iterations``)."""

    judged: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    iterations: int = 0

    @staticmethod
    def of(judged: tuple[str, ...], counts: Mapping[str, Tensor]) -> Trained:
        """``counts``: the tensors of :meth:`editors.methods.training.loops.Training.counts`."""
        failed = tuple(judged[number] for number in counts["failed"].tolist())
        return Trained(judged, failed, int(counts["iterations"]))


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on applying facts.

    ``batch_size``: the most facts that are trained together (None: as many as the method chooses);
    the result depends on it. ``memory_bytes``: the bytes of recorded states that stay in memory
    (None: all of them; the rest goes to temporary files); the result does not depend on it.
    ``chats``: whether facts may be trained as turns of chats, too; a method that trains them so
    records which facts were not, and trains those as before whenever it trains them again.
    """

    batch_size: int | None = None
    memory_bytes: int | None = None
    chats: bool = True

    def at_most(self, size: int) -> int:
        """The most facts of a group that the method would make as large as ``size``."""
        return min(size, self.batch_size or size)


UNLIMITED = Limits()


class NoCache:
    """A cache that stores nothing."""

    def get(self, key: str) -> bytes | None:
        return None

    def put(self, key: str, payload: bytes, made_from: Collection[str] | None = None) -> None:
        pass


NO_CACHE = NoCache()
