"""The contract of an editing method, and what all methods share.

A method defines how to start, train and remove, how to save and load its payload, which modules it
replaces, and how it routes or rewrites prompts. This module does the rest: it finds the facts that
change something, supersedes facts, reports progress, and attaches edits to the base.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar, cast

from torch import nn

from editors.errors import StateMismatch
from editors.facts import Fact, FactClosure
from editors.heads.head_mask import pruning_heads
from editors.heads.pruning import Head, HeadMask
from editors.inference.decisions import Decision, Router
from editors.inference.edited_model import EditedModel, Rewriter, attached
from editors.inference.self_test import require_routing
from editors.methods.edit_state import HEAD_FILL, EditState, SavedPayload
from editors.methods.spec import MethodSpec
from editors.model.base_model import Base
from editors.model.projection import Projection
from editors.model.tensor_files import from_bytes, to_bytes
from editors.scope.base import ByteCache
from editors.scope.phrasings import Phrasings

P = TypeVar("P")
S = TypeVar("S")


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
    ``superseded``: closed id -> the id that replaced it; ``failed``: ids that were trained without
    success (they are in force, and ``check`` shows them); ``left``: ids that were not reached
    before an early stop; ``iterations``: the training steps taken.
    """

    state: EditState
    applied: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
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


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on the resources of applying facts.

    ``batch_size``: the most facts that are trained together (None: as many as the method chooses);
    the result depends on it. ``memory_bytes``: the bytes of recorded states that stay in memory
    (None: all of them; the rest goes to temporary files); the result does not depend on it.
    """

    batch_size: int | None = None
    memory_bytes: int | None = None


UNLIMITED = Limits()


class NoCache:
    """A cache that stores nothing."""

    def get(self, key: str) -> bytes | None:
        return None

    def put(self, key: str, payload: bytes) -> None:
        pass


NO_CACHE = NoCache()


class Method(ABC, Generic[P, S]):
    """An editing method on one base; ``P``: the type of its payload, ``S``: of its settings."""

    spec: ClassVar[MethodSpec]

    def __init__(self, base: Base, settings: S, seed: int) -> None:
        self.base, self.settings, self.seed = base, settings, seed

    # --- defined by a method --------------------------------------------------------------------

    @abstractmethod
    def initial_payload(self, phrasings: Sequence[Phrasings], cache: ByteCache) -> P:
        """The payload without edits. A scope signal may be calibrated on ``phrasings``, and its
        calibration may be stored in ``cache``.

        Raises:
            UnsupportedArchitecture: the method cannot edit this base.
            EditorError: the phrasings do not suffice, or the settings are not valid.
        """

    @abstractmethod
    def train(
        self, state: EditState, group: Sequence[Fact], cache: ByteCache, limits: Limits
    ) -> tuple[EditState, Trained]:
        """``state`` after training ``group``, whose facts are in ``state`` already.

        Finished work is stored in ``cache`` under a digest of everything that it depends on. So a
        run that was killed continues where it stopped.
        """

    @abstractmethod
    def dump(self, payload: P) -> SavedPayload:
        """The payload as a JSON summary and blobs: equal bytes for equal payloads."""

    @abstractmethod
    def load(self, saved: SavedPayload, state: EditState) -> P:
        """The payload of ``state`` that :meth:`dump` wrote; raises StateMismatch, LookupError,
        ValueError or TypeError for other data."""

    @abstractmethod
    def explain(self, decision: Decision | None, state: EditState) -> tuple[str, dict[str, Any]]:
        """Why a prompt was answered as it was: a sentence, empty for the base alone, and what the
        method adds to the JSON record of the answer."""

    def edited_projections(self) -> Sequence[Projection]:
        """The projections whose outputs the method changes, maybe none."""
        return self.spec.edits(self.base.architecture, self.base.layer)

    def replacements(self, state: EditState) -> dict[str, nn.Module]:
        """By path, the modules that replace those of the base while the edits are attached."""
        return {}

    def router(self, state: EditState) -> Router | None:
        """The router that decides which memory answers a prompt; None: edits are always on."""
        return None

    def rewriter(self, state: EditState) -> Rewriter | None:
        """The function that rewrites prompts for the model; None: no prompt is rewritten."""
        return None

    def group_size(self, state: EditState) -> int:
        """The number of facts that :meth:`train` takes next."""
        return 1

    def require_trainable(self, fact: Fact) -> None:
        """Raise EditorError if ``fact`` cannot be encoded or is too long for the model."""

    def finish(self, state: EditState) -> EditState:
        """``state`` after the last group of an :meth:`apply`."""
        return state

    def remove(self, state: EditState, facts: Sequence[str]) -> Applied:
        """``state`` with ``facts`` (ids) taken back, by default by closing them. The result names
        remaining facts that were trained again for this and failed."""
        return Applied(state.closing({fact: FactClosure("undone") for fact in facts}))

    # Several processes may train different units of work before one process applies all facts.

    def work_unit(self, state: EditState) -> int:
        """The number of the unit of work that the next group belongs to."""
        return 0

    def skip(self, state: EditState, group: Sequence[Fact]) -> EditState:
        """``state``, with ``group`` in it already, as if another process had trained the group."""
        return state

    # --- shared by all methods ------------------------------------------------------------------

    def start(self, phrasings: Sequence[Phrasings], cache: ByteCache = NO_CACHE) -> EditState:
        """The state without edits; arguments and errors are those of :meth:`initial_payload`."""
        return EditState(
            self.spec.name,
            asdict(cast("Any", self.settings)),
            self.base.layer,
            tuple(projection.path for projection in self.edited_projections()),
            self._fingerprint,
            self.initial_payload(phrasings, cache),
        )

    def apply(
        self,
        state: EditState,
        facts: Sequence[Fact],
        *,
        cache: ByteCache,
        on_progress: Callable[[Progress], bool],
        limits: Limits = UNLIMITED,
    ) -> Applied:
        """``state`` with ``facts`` applied in order, in groups, within ``limits``.

        A fact that is in force already changes nothing. A fact supersedes an older fact with the
        same prompt. ``on_progress`` is called after each group, and returns False to stop early.

        Raises:
            StateMismatch: ``state`` belongs to another base.
            EditorError: a fact cannot be encoded (then nothing is applied), or training failed.
        """
        self.require_base(state)
        fresh, unchanged = self._fresh(state, facts)
        applied: list[str] = []
        superseded: dict[str, str] = {}
        failed: list[str] = []
        iterations = reached = 0
        while reached < len(fresh):
            group = self._next_group(state, facts, fresh, reached, limits)
            state, replaced = entered(state, group)
            state, trained = self.train(state, group, cache, limits)
            reached += len(group)
            iterations += trained.iterations
            applied += [fact.id for fact in group]
            superseded |= replaced
            failed = [fact for fact in failed if fact not in trained.judged] + [*trained.failed]
            if not on_progress(Progress(reached, len(fresh), iterations)):
                break
        if applied:
            state = self.finish(state)
        superseded = {old: by for old, by in superseded.items() if old in state.closed}
        return Applied(
            state,
            tuple(dict.fromkeys(fact for fact in applied if fact not in superseded)),
            tuple(unchanged),
            superseded,
            tuple(fact for fact in failed if fact not in state.closed),
            tuple(facts[number].id for number in fresh[reached:]),
            iterations,
        )

    def prepare(
        self,
        state: EditState,
        facts: Sequence[Fact],
        *,
        cache: ByteCache,
        takes: Callable[[int], bool],
        limits: Limits = UNLIMITED,
    ) -> None:
        """Train some of the units of work that :meth:`apply` would train, and store the results in
        ``cache``.

        ``takes(unit)``: whether this process trains that unit. Units do not depend on each other,
        so several processes may train different units. Then :meth:`apply` reads from the cache what
        it would have trained. Raises the errors of :meth:`apply`.
        """
        self.require_base(state)
        fresh, _ = self._fresh(state, facts)
        reached = 0
        while reached < len(fresh):
            unit = self.work_unit(state)
            group = self._next_group(state, facts, fresh, reached, limits)
            state, _ = entered(state, group)
            if takes(unit):
                state, _ = self.train(state, group, cache, limits)
            else:
                state = self.skip(state, group)
            reached += len(group)

    @contextmanager
    def attach(self, state: EditState) -> Iterator[EditedModel]:
        """Inside ``with``, the base with the edits and the pruned heads of ``state``.

        Raises:
            StateMismatch: ``state`` belongs to another base.
            EditorError: edits are attached to the model already.
        """
        self.require_base(state)
        mask = state.pruning.mask if state.pruning else HeadMask()
        with (
            pruning_heads(self.base, mask),
            attached(
                self.base,
                self.replacements(state),
                self.router(state),
                self.rewriter(state),
                heads_pruned=bool(mask.heads),
            ) as model,
        ):
            yield model

    def self_test(self) -> None:
        """Raise UnsupportedArchitecture if prompts cannot be routed with the installed
        libraries."""
        if self.spec.routed and (edited := self.edited_projections()):
            require_routing(self.base, edited[0].path)

    def save(self, state: EditState) -> dict[str, bytes]:
        """``state``, whose payload is loaded, as named blobs."""
        blobs = state.to_blobs(self.dump(state.payload))
        if state.pruning and (fill := state.pruning.mask.fill):
            blobs[HEAD_FILL] = to_bytes({f"{h.layer}.{h.head}": t for h, t in fill.items()})
        return blobs

    def open(self, state: EditState) -> EditState:
        """``state`` with its payload and the tensors of its pruned heads loaded; raises
        StateMismatch if they cannot be read."""
        saved = state.payload
        if not isinstance(saved, SavedPayload):
            return state
        pruning = state.pruning
        if pruning and HEAD_FILL in saved.blobs:
            tensors = from_bytes(saved.blobs[HEAD_FILL])
            fill = {Head(*map(int, name.split("."))): t for name, t in tensors.items()}
            mask = HeadMask(pruning.mask.heads, pruning.mask.scale, pruning.mask.at, fill)
            pruning = replace(pruning, mask=mask)
        try:
            return replace(state, payload=self.load(saved, state), pruning=pruning)
        except (LookupError, ValueError, TypeError) as error:
            raise StateMismatch(
                f"the saved edits cannot be read: {error}", "`editcli verify`"
            ) from error

    def require_base(self, state: EditState) -> None:
        """Raise StateMismatch if ``state`` belongs to another base."""
        if state.fingerprint != self._fingerprint:
            raise StateMismatch(
                f"these edits were made on base {state.fingerprint[:16]}, "
                f"this base is {self._fingerprint[:16]}",
                "open the store with the model that it was made for",
            )

    @cached_property
    def _fingerprint(self) -> str:
        return self.base.fingerprint()

    def _next_group(
        self,
        state: EditState,
        facts: Sequence[Fact],
        fresh: Sequence[int],
        reached: int,
        limits: Limits,
    ) -> list[Fact]:
        size = self.group_size(state)
        numbers = fresh[reached : reached + min(size, limits.batch_size or size)]
        return [facts[number] for number in numbers]

    def _fresh(self, state: EditState, facts: Sequence[Fact]) -> tuple[array[int], list[str]]:
        """The numbers of the facts that change something, and the ids in force of those that do
        not. Raises EditorError for a fact that cannot be encoded, before anything is trained.

        ``facts`` may be a lazy sequence over a file, so facts are not kept, only their numbers.
        """
        answering = {fact.prompt: (fact.target, fact.id) for fact in state.in_force()}
        fresh, unchanged = array("Q"), []
        for number, fact in enumerate(facts):
            target, current = answering.get(fact.prompt, (None, ""))
            if target == fact.target:
                unchanged.append(current)
                continue
            self.require_trainable(fact)
            answering[fact.prompt] = fact.target, fact.id
            fresh.append(number)
        return fresh, unchanged


def entered(state: EditState, group: Sequence[Fact]) -> tuple[EditState, dict[str, str]]:
    """``state`` with the facts of ``group`` added, and older facts with the same prompts closed.
    Also returns the closed ids, each with the id that replaced it."""
    facts, closed = dict(state.facts), dict(state.closed)
    answering = {fact.prompt: fact.id for fact in state.in_force()}
    replaced: dict[str, str] = {}
    for fact in group:
        old_id = answering.get(fact.prompt)
        if old_id is not None and old_id != fact.id:
            closed[old_id] = FactClosure("superseded", fact.id)
            replaced[old_id] = fact.id
        answering[fact.prompt] = fact.id
        facts.pop(fact.id, None)  # a fact that is applied again becomes the newest
        closed.pop(fact.id, None)
        facts[fact.id] = fact
    return replace(state, facts=facts, closed=closed), replaced


def still_in_force(state: EditState, group: Sequence[Fact]) -> tuple[str, ...]:
    """The ids of ``group``, entered in ``state``, without those that it supersedes itself."""
    return tuple(dict.fromkeys(fact.id for fact in group if fact.id not in state.closed))
