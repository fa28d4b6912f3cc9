"""The contract of an editing method, and what it reports while it works."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from editors.facts import Fact
from editors.inference.attach import Attached
from editors.methods.edit_state import EditState, Scalar
from editors.model.base_model import Base
from editors.scope.calibration import Phrasings


@dataclass(frozen=True, slots=True)
class Progress:
    """Facts that are done, of all that were asked for, and the steps taken so far."""

    done: int
    total: int
    iterations: int


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying facts gave.

    ``applied``: ids now in force that were not before; ``unchanged``: ids that were in force
    already; ``superseded``: closed id -> the id that took its place; ``failed``: ids trained
    without success (they are in force, and ``check`` shows them); ``left``: ids not reached.
    """

    state: EditState
    applied: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    superseded: Mapping[str, str] = field(default_factory=dict)
    failed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    iterations: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What applying may take in at a time.

    ``at_once``: facts that are trained together (1 or more; None: as many as a shard takes), on
    which the result depends; ``memory``: bytes of recorded states that are held in memory (None:
    all of them; what is beyond goes to temporary files), on which it does not.
    """

    at_once: int | None = None
    memory: int | None = None


UNLIMITED = Limits()


class Memo(Protocol):
    """Where finished shards are kept by the key of their recipe until they are published."""

    def get(self, key: str) -> bytes | None: ...

    def put(self, key: str, payload: bytes) -> None: ...


class NoMemo:
    """Keeps nothing."""

    def get(self, key: str) -> bytes | None:
        return None

    def put(self, key: str, payload: bytes) -> None:
        pass


class Method(Protocol):
    """One editing method on one base. ``editors/methods/<name>.py`` ends with ``METHOD = ...``."""

    name: ClassVar[str]
    title: ClassVar[str]
    reference: ClassVar[str]

    def __init__(self, base: Base, settings: Mapping[str, Scalar], seed: int) -> None: ...

    def empty(self, phrasings: Sequence[Phrasings]) -> EditState:
        """The state of a base without edits; a router may be calibrated on ``phrasings``."""
        ...

    def apply(
        self,
        state: EditState,
        facts: Sequence[Fact],
        *,
        memo: Memo,
        on_progress: Callable[[Progress], bool],
        limits: Limits = UNLIMITED,
    ) -> Applied:
        """``state`` with ``facts`` applied in order, within ``limits``; ``on_progress`` is called
        each time some are done and says False to stop early."""
        ...

    def prepare(
        self,
        state: EditState,
        facts: Sequence[Fact],
        *,
        memo: Memo,
        mine: Callable[[int], bool],
        limits: Limits = UNLIMITED,
    ) -> None:
        """Train the shards, of those :meth:`apply` would train, whose numbers are ``mine``, and
        leave them in ``memo``."""
        ...

    def attach(self, state: EditState) -> AbstractContextManager[Attached]:
        """The base with these edits, inside ``with``."""
        ...
