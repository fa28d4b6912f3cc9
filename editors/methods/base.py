"""The contract of an editing method.

A method is one class on one base. It says how to start, train and remove, how to save and load its
payload, which modules it replaces and how it routes or rewrites prompts. What all methods have in
common is here: which facts change something, superseding, progress, and attaching.
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
from editors.heads.pruning import NOTHING_PRUNED, Head, HeadMask
from editors.inference.decisions import Decision, Router
from editors.inference.edited_model import EditedModel, Rewriter, attached
from editors.inference.self_test import require_routing
from editors.methods.edit_state import HEAD_FILL, EditState, SavedPayload
from editors.methods.spec import MethodSpec
from editors.model.base_model import Base
from editors.model.projection import Projection
from editors.model.tensor_files import from_bytes, to_bytes
from editors.scope.calibrated import ByteCache
from editors.scope.phrasings import Phrasings

P = TypeVar("P")
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Progress:
    """Facts that are done, of all that are to be applied, and the training steps taken so far."""

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
class Trained:
    """What training a group of facts gave: the ids that were ``judged``, those of them that
    ``failed``, and the steps taken."""

    judged: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    iterations: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What applying may take in at a time.

    ``batch_size``: facts that are trained together (None: as many as the method takes), on which
    the result depends; ``memory_bytes``: recorded states that are held in memory (None: all of
    them; the rest goes to temporary files), on which it does not.
    """

    batch_size: int | None = None
    memory_bytes: int | None = None


UNLIMITED = Limits()


class NoCache:
    """A cache that keeps nothing."""

    def get(self, key: str) -> bytes | None:
        return None

    def put(self, key: str, payload: bytes) -> None:
        pass


NO_CACHE = NoCache()


class Method(ABC, Generic[P, S]):
    """An editing method on one base; ``P`` is its payload and ``S`` its settings."""

    spec: ClassVar[MethodSpec]

    def __init__(self, base: Base, settings: S, seed: int) -> None:
        self.base, self.settings, self.seed = base, settings, seed

    # --- what a method says ---------------------------------------------------------------------

    @abstractmethod
    def initial_payload(self, phrasings: Sequence[Phrasings], cache: ByteCache) -> P:
        """The payload of a base without edits; scope may be calibrated on ``phrasings``, and what
        that gives be kept in ``cache``.

        Raises:
            UnsupportedArchitecture: this base cannot be edited by the method.
        """

    @abstractmethod
    def train(
        self, state: EditState, group: Sequence[Fact], cache: ByteCache, limits: Limits
    ) -> tuple[EditState, Trained]:
        """``state``, in which ``group`` has just been entered, with the group trained.

        Finished parts are kept in ``cache`` under the key of their recipe, so that a killed run
        goes on where it was.
        """

    @abstractmethod
    def dump(self, payload: P) -> SavedPayload:
        """The payload as JSON and blobs: the same bytes for the same payload."""

    @abstractmethod
    def load(self, saved: SavedPayload, state: EditState) -> P:
        """What :meth:`dump` gave; ``state``: the edits that it belongs to."""

    @abstractmethod
    def explain(self, decision: Decision | None, state: EditState) -> tuple[str, dict[str, Any]]:
        """Why an answer came out as it did: a sentence, and what the method adds to its record."""

    def edited_projections(self) -> Sequence[Projection]:
        """The projections whose output the method changes: none, one or several."""
        return self.spec.edits(self.base.architecture, self.base.layer)

    def replacements(self, state: EditState) -> dict[str, nn.Module]:
        """By path, the modules that stand in for the base's while the edits are attached."""
        return {}

    def router(self, state: EditState) -> Router | None:
        """What decides which memory answers a prompt; None for a method that is always on."""
        return None

    def rewriter(self, state: EditState) -> Rewriter | None:
        """How prompts and chats are rewritten before the model is called; None: not at all."""
        return None

    def group_size(self, state: EditState) -> int:
        """How many facts :meth:`train` takes next."""
        return 1

    def require_trainable(self, fact: Fact) -> None:
        """Raise EditorError for a fact that cannot be encoded, before anything is trained."""

    def finish(self, state: EditState) -> EditState:
        """``state`` once all groups of an ``apply`` are trained."""
        return state

    def remove(self, state: EditState, facts: Sequence[str]) -> Applied:
        """``state`` with these facts (ids) taken back; here by closing them. What is trained again
        for that, and fails, is named."""
        return Applied(state.closing({fact: FactClosure("undone") for fact in facts}))

    # Several processes may train units of work, each its own, before one process applies all.

    def work_unit(self, state: EditState) -> int:
        """The number of the unit of work that the next group belongs to."""
        return 0

    def skip(self, state: EditState, group: Sequence[Fact]) -> EditState:
        """``state`` as if ``group``, which has been entered, had been trained elsewhere."""
        return state

    # --- what all methods do --------------------------------------------------------------------

    def start(self, phrasings: Sequence[Phrasings], cache: ByteCache = NO_CACHE) -> EditState:
        """The state of a base without edits; arguments and errors of :meth:`initial_payload`."""
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

        A fact in force already is left alone; one whose prompt is already edited supersedes the
        older one. ``on_progress`` is called after each group, and says False to stop early.

        Raises:
            StateMismatch: ``state`` belongs to another base.
            EditorError: a fact cannot be trained; nothing is then applied.
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
        mine: Callable[[int], bool],
        limits: Limits = UNLIMITED,
    ) -> None:
        """Train, of the units of work that :meth:`apply` would train, those whose numbers are
        ``mine``, and leave them in ``cache``.

        Units do not depend on each other, so several processes may take some each; what
        :meth:`apply` then finds is what it would have trained itself. Raises as :meth:`apply`.
        """
        self.require_base(state)
        fresh, _ = self._fresh(state, facts)
        reached = 0
        while reached < len(fresh):
            unit = self.work_unit(state)
            group = self._next_group(state, facts, fresh, reached, limits)
            state, _ = entered(state, group)
            if mine(unit):
                state, _ = self.train(state, group, cache, limits)
            else:
                state = self.skip(state, group)
            reached += len(group)

    @contextmanager
    def attach(self, state: EditState) -> Iterator[EditedModel]:
        """The base with the edits of ``state`` and its heads pruned, inside ``with``.

        Raises:
            StateMismatch: ``state`` belongs to another base.
        """
        self.require_base(state)
        mask = state.pruning.mask if state.pruning else NOTHING_PRUNED
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
        """Raise UnsupportedArchitecture where routing does not work on this base as installed."""
        if self.spec.routed and (edited := self.edited_projections()):
            require_routing(self.base, edited[0].path)

    def save(self, state: EditState) -> dict[str, bytes]:
        """``state`` as named blobs."""
        blobs = state.to_blobs(self.dump(state.payload))
        if state.pruning and (fill := state.pruning.mask.fill):
            blobs[HEAD_FILL] = to_bytes({f"{h.layer}.{h.head}": t for h, t in fill.items()})
        return blobs

    def open(self, state: EditState) -> EditState:
        """``state`` with its payload loaded, and the tensors of its pruned heads."""
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
        """Raise StateMismatch where ``state`` belongs to another base."""
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
        taken = fresh[reached : reached + min(size, limits.batch_size or size)]
        return [facts[number] for number in taken]

    def _fresh(self, state: EditState, facts: Sequence[Fact]) -> tuple[array[int], list[str]]:
        """The numbers of the facts that change something, and the ids of those that do not.

        ``facts`` may be read from a file one by one: none is held. What could be refused is refused
        here, before anything is trained.
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
    """``state`` with ``group`` in its record, and closed the facts whose prompt it takes over:
    closed id -> the id that took its place."""
    facts, closed = dict(state.facts), dict(state.closed)
    answering = {fact.prompt: fact.id for fact in state.in_force()}
    replaced: dict[str, str] = {}
    for fact in group:
        old = answering.get(fact.prompt)
        if old is not None and old != fact.id:
            closed[old] = FactClosure("superseded", fact.id)
            replaced[old] = fact.id
        answering[fact.prompt] = fact.id
        facts.pop(fact.id, None)  # one that comes back is the newest again
        closed.pop(fact.id, None)
        facts[fact.id] = fact
    return replace(state, facts=facts, closed=closed), replaced


def still_in_force(state: EditState, group: Sequence[Fact]) -> tuple[str, ...]:
    """The ids of a group that has been entered, less those that it supersedes itself."""
    return tuple(dict.fromkeys(fact.id for fact in group if fact.id not in state.closed))
