"""The contract of an editing method, and what all methods share.

A method defines how to start, train and remove, how to save and load its payload, which modules it
replaces, and how it routes or rewrites prompts. This module does the rest: it finds the facts that
change something, supersedes facts, reports progress, and attaches edits to the base.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

from torch import Tensor, nn

from editors.errors import EditorError, StateMismatch
from editors.facts import Fact, FactClosure
from editors.heads.head_mask import pruning_heads
from editors.heads.pruning import Head, HeadMask
from editors.inference.decisions import Decision, Router
from editors.inference.edited_model import EditedModel, Rewriter, attached
from editors.inference.self_test import require_routing
from editors.methods.applying import NO_CACHE, UNLIMITED, Applied, Limits, Progress, Trained
from editors.methods.edit_state import HEAD_FILL, EditState
from editors.methods.elsewhere import Elsewhere
from editors.methods.low_rank import MAKE_A_STORE, LowRankMemory
from editors.methods.plan import plan_of
from editors.methods.spec import MethodSpec
from editors.model.base_model import Base
from editors.model.projection import Projection
from editors.model.saved_payload import SavedPayload
from editors.model.tensor_files import from_bytes, to_bytes
from editors.scope.base import ByteCache
from editors.scope.corpus import Corpus

# A store whose edits another engine can answer with.
IN_FRONT = "`editcli init MODEL --method in-context --scope sentence`"

P = TypeVar("P")
S = TypeVar("S")


class Method(ABC, Generic[P, S]):
    """An editing method on one base; ``P``: the type of its payload, ``S``: of its settings."""

    spec: ClassVar[MethodSpec]

    def __init__(self, base: Base, settings: S, seed: int) -> None:
        self.base, self.settings, self.seed = base, settings, seed

    # --- defined by a method --------------------------------------------------------------------

    @abstractmethod
    def initial_payload(self, corpus: Corpus, cache: ByteCache) -> P:
        """The payload without edits. A scope signal may be calibrated on ``corpus``, and its
        calibration may be stored in ``cache``.

        Raises:
            UnsupportedArchitecture: the method cannot edit this base.
            EditorError: the corpus does not suffice, or the settings are not valid.
        """

    @abstractmethod
    def train(
        self, state: EditState, group: Sequence[Fact], cache: ByteCache, limits: Limits
    ) -> tuple[EditState, Trained]:
        """``state`` after training ``group``: facts that are in force in ``state`` already, each
        once.

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

    def other_model(self, state: EditState) -> Path | None:
        """The folder of the model that answering needs besides the base; None if there is none."""
        return None

    def with_other_model(self, state: EditState, folder: Path) -> EditState:
        """``state``, which asks the same other model in ``folder``."""
        return state

    def always_on(self, state: EditState) -> Mapping[str, Tensor]:
        """By path of an edited projection, float32 ``[out, in]``: the change of its weight with
        which all edits answer every prompt; of routed edits, which then are no longer told apart,
        the nearest there is.

        Raises:
            EditorError: facts are in force, and the method changes no weights.
        """
        if not state.in_force():
            return {}
        raise EditorError(
            f"{self.spec.name} changes no weights, so plain weights cannot hold its edits",
            "`--as adapter`",
        )

    def elsewhere(self, state: EditState) -> Elsewhere:
        """How an engine that knows nothing of edits answers with those of ``state``, whose heads
        are not pruned. The weights of the base are not read.

        Raises:
            EditorError: no engine can, by default.
        """
        raise EditorError(
            f"edits of {self.spec.name} cannot be put in front of another engine",
            "`editcli export HEAD FOLDER --as merged` writes weights that an engine can hold; or "
            f"make a store that can: {IN_FRONT}",
        )

    def low_rank_memories(self, state: EditState) -> Mapping[int, LowRankMemory]:
        """By number, as decisions name them, the memories that answer a fact in force.

        Raises:
            EditorError: the memories are not of low rank.
        """
        raise EditorError(
            f"{self.spec.name} has no memories of low rank, which adapters of PEFT are made of",
            MAKE_A_STORE,
        )

    def group_size(self, state: EditState) -> int:
        """The number of facts that :meth:`train` takes next."""
        return 1

    def require_trainable(self, fact: Fact) -> None:
        """Raise EditorError if ``fact`` cannot be encoded or is too long for the model."""

    def contradicted(self, state: EditState, facts: Sequence[Fact]) -> Mapping[str, str]:
        """Facts in force that ask the question of one of ``facts``, which were trained last, in
        other words, and have another target: by id, the id of that one."""
        return {}

    def finish(self, state: EditState) -> EditState:
        """``state`` after the last group of an :meth:`apply`."""
        return state

    def remove(self, state: EditState, facts: Sequence[str]) -> Applied:
        """``state`` with ``facts`` (ids) taken back, by default by closing them. The result names
        remaining facts that were trained again for this and failed."""
        return Applied(state.closing({fact: FactClosure("undone") for fact in facts}))

    def without(self, state: EditState, facts: Collection[str]) -> Applied:
        """``state`` without any trace of ``facts`` (ids), in force or not: nothing in its payload
        was made from them. Facts that were trained together with one of them are trained again,
        those in force; the result names those that failed.

        Raises:
            EditorError: the method cannot do so.
        """
        raise EditorError(
            f"{self.spec.name} cannot take the traces of single facts out of what it has trained",
            "make a new store, and apply the other facts",
        )

    # Several processes may train different units of work before one process applies all facts.

    def work_unit(self, state: EditState) -> int:
        """The number of the unit of work that the next group belongs to."""
        return 0

    def skip(self, state: EditState, group: Sequence[Fact]) -> EditState:
        """``state``, with ``group`` in it already, as if another process had trained the group."""
        return state

    # --- shared by all methods ------------------------------------------------------------------

    def start(self, corpus: Corpus, cache: ByteCache = NO_CACHE) -> EditState:
        """The state without edits; arguments and errors are those of :meth:`initial_payload`."""
        return EditState(
            self.spec.name,
            asdict(cast("Any", self.settings)),
            self.base.layer,
            tuple(projection.path for projection in self.edited_projections()),
            self._fingerprint,
            self.initial_payload(corpus, cache),
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

        A fact that is in force already trains nothing. What it tells besides is kept with the one
        in force; where that concerns what is trained, the fact is trained again. A fact supersedes
        an older fact with the same prompt, and one that :meth:`contradicted` names; of two facts in
        ``facts``, the later one is the newer. ``on_progress`` is called after each group, and
        returns False to stop early.

        Raises:
            StateMismatch: ``state`` belongs to another base.
            InvalidFact: a fact has the name of another subject (then nothing is applied).
            EditorError: a fact cannot be encoded (then nothing is applied), or training failed.
        """
        self.require_base(state)
        plan, iterations = plan_of(state, facts, self.require_trainable), 0
        order = dict(plan.unchanged)  # by fact, its number
        applied: list[str] = []
        superseded: dict[str, str] = {}
        failed: list[str] = []
        while group := plan.next_group(facts, limits.at_most(self.group_size(state))):
            state, in_force, replaced = state.entering([*group.values()])
            state, trained = self.train(state, in_force, cache, limits)
            order |= {fact.id: number for number, fact in group.items()}
            for older, newer in self.contradicted(state, in_force).items():
                if order.get(older, -1) > order[newer]:
                    older, newer = newer, older  # it was in force before this call
                state = state.closing({older: FactClosure("superseded", newer)})
                replaced[older] = newer
            iterations += trained.iterations
            applied += [fact.id for fact in group.values()]
            superseded |= replaced
            failed = [fact for fact in failed if fact not in trained.judged] + [*trained.failed]
            if not on_progress(Progress(len(applied), plan.count, iterations)):
                break
        if applied:
            state = self.finish(state)
        state = state.telling(plan.updated.values())
        superseded = {old: by for old, by in superseded.items() if old in state.closed}
        return Applied(
            state,
            tuple(dict.fromkeys(fact for fact in applied if fact not in superseded)),
            tuple(plan.unchanged),
            tuple(fact for fact in plan.updated if fact not in state.closed),
            superseded,
            tuple(fact for fact in failed if fact not in state.closed),
            tuple(facts[number].id for number in plan.numbers),
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
        plan = plan_of(state, facts, self.require_trainable)
        while group := plan.next_group(facts, limits.at_most(self.group_size(state))):
            unit = self.work_unit(state)
            state, in_force, _ = state.entering([*group.values()])
            if takes(unit):
                state, _ = self.train(state, in_force, cache, limits)
            else:
                state = self.skip(state, in_force)

    def trained_once(
        self,
        cache: ByteCache,
        recipe: Sequence[object],
        made_from: Collection[str],
        train: Callable[[], Mapping[str, Tensor]],
    ) -> dict[str, Tensor]:
        """The tensors that ``train`` returns, on the CPU, from ``cache`` if they are there.

        ``recipe``: plain JSON, everything that they depend on besides the base, the settings and
        the seed. ``made_from``: the facts (ids) that they hold traces of.
        """
        of_all = [self._fingerprint, asdict(cast("Any", self.settings)), self.seed]
        key = sha256(json.dumps([*of_all, *recipe], sort_keys=True).encode()).hexdigest()
        if (saved := cache.get(key)) is None:
            saved = to_bytes(train())
            cache.put(key, saved, made_from)
        return from_bytes(saved)

    def served_elsewhere(self, state: EditState) -> Elsewhere:
        """How an engine that knows nothing of edits answers with those of ``state``.

        Raises:
            EditorError: no engine can.
        """
        if state.pruning and state.pruning.mask.heads:
            raise EditorError(
                "heads are pruned in this version, and another engine has them all",
                "`editcli undo --heads`, or name a version without pruned heads: `--version V`",
            )
        return self.elsewhere(state)

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

    def close(self, state: EditState) -> EditState:
        """``state`` with its payload, and the tensors of its pruned heads, as a
        :class:`SavedPayload`; :meth:`open` loads both again."""
        saved = self.dump(state.payload)
        if state.pruning and (fill := state.pruning.mask.fill):
            tensors = to_bytes({f"{h.layer}.{h.head}": t for h, t in fill.items()})
            saved = replace(saved, blobs={**saved.blobs, HEAD_FILL: tensors})
        return replace(state, payload=saved)

    def save(self, state: EditState) -> dict[str, bytes]:
        """``state``, whose payload is loaded, as named blobs."""
        return self.close(state).to_blobs()

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
            pruning = replace(pruning, mask=replace(pruning.mask, fill=fill))
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
