"""WISE on one base: which facts share a shard, how a shard is trained, and who answers a prompt.

The main memory stays frozen. A shard holds at most ``shard_size`` facts on a random mask. A router
decides which memory answers. ``profile=paper`` makes the choices of the paper (arXiv 2405.14768):
edits are trained one after the other with the margins of Eq. 5, memories are chosen by activation,
and shards are merged by TIES. ``profile=robust``, the default, trains the facts of a shard together
on their targets, and a scope signal decides. New facts of a shard are trained together with the
earlier facts of the shard that are most similar to them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence, Sized
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from torch import nn

from editors.facts import Fact
from editors.inference.decisions import Decision, NoClaims, Router
from editors.methods.base import Limits, Method, Trained, still_in_force
from editors.methods.edit_state import EditState, SavedPayload
from editors.methods.spec import MethodSpec
from editors.methods.training.rows import training_rows
from editors.methods.training.suffix_replay import require_replay
from editors.methods.wise import SPEC
from editors.methods.wise.activation import ActivationRouter
from editors.methods.wise.memory_layer import SideMemoryLinear
from editors.methods.wise.merging import merge
from editors.methods.wise.payload import WisePayload
from editors.methods.wise.settings import WiseSettings
from editors.methods.wise.shards import Group, Mask, Memory, MergedShards, Shard
from editors.methods.wise.training.joint import (
    BETAS,
    LATE_CONFIDENCE,
    RECHECK_AFTER,
    JointSettings,
    ShardTraining,
    batch_size_on,
    train_jointly,
)
from editors.methods.wise.training.sequential import SequentialSettings, train_sequentially
from editors.model.base_model import Base
from editors.model.tensor_files import from_bytes, to_bytes
from editors.model.tokenization import Row, encode_pairs, encode_prompt
from editors.scope.base import ByteCache, Learning, explain_score
from editors.scope.fact_scope import FactScope
from editors.scope.phrasings import Phrasings
from editors.scope.scope_state import ScopeState, packed, unpacked
from editors.scope.unrelated_prompts import UNRELATED

REHEARSAL_FACTS = 8  # the least number of earlier facts that are trained together with new facts
CHECKED_PER_REHEARSED = 4  # times as many are checked, and trained again if need be
ENTRIES_A_FACT = 5000  # of the projection; with fewer entries, facts interfere
MIN_SHARD, MAX_SHARD = 20, 200  # facts
ACTIVATION = "activation"  # the scope of the paper, whose decisions name memories and no facts


class Wise(Method[WisePayload, WiseSettings]):
    """WISE on one base."""

    spec: ClassVar[MethodSpec] = SPEC

    def __init__(self, base: Base, settings: WiseSettings, seed: int) -> None:
        super().__init__(base, settings, seed)
        self._scope = FactScope(base, settings)
        self._names_facts = settings.scope != ACTIVATION
        self._merged: tuple[tuple[Shard, ...], list[Memory]] | None = None  # shards, their memories

    def initial_payload(self, phrasings: Sequence[Phrasings], cache: ByteCache) -> WisePayload:
        base = self.base
        probes = encode_pairs(base.tokenizer, [(text, "yes") for text in UNRELATED[:2]], stop=True)
        require_replay(base, base.batch(probes))
        if not self._names_facts:
            return WisePayload(ScopeState(ACTIVATION))
        return WisePayload(self._scope.start(phrasings, cache))

    def dump(self, payload: WisePayload) -> SavedPayload:
        return payload.dump()

    def load(self, saved: SavedPayload, state: EditState) -> WisePayload:
        return WisePayload.load(saved)

    # --- training -------------------------------------------------------------------------------

    def require_trainable(self, fact: Fact) -> None:
        training_rows(self.base, [fact], self._scope.prefixes, 0)

    def group_size(self, state: EditState) -> int:
        """As many facts as the present shard has room for."""
        number, shards = self.work_unit(state), _payload(state).shards
        return self._shard_size - (len(shards[number].facts) if number < len(shards) else 0)

    def work_unit(self, state: EditState) -> int:
        """The number of the shard that takes the next fact."""
        shards = _payload(state).shards
        full = not shards or len(shards[-1].facts) >= self._shard_size
        return len(shards) if full else len(shards) - 1

    @cached_property
    def _shard_size(self) -> int:
        """The facts of a full shard: as set, or as many as the projection has room for."""
        entries = self.base.projection.out_features * self.base.projection.in_features
        fitting = min(MAX_SHARD, max(MIN_SHARD, entries // ENTRIES_A_FACT))
        return self.settings.shard_size or fitting

    def train(
        self, state: EditState, group: Sequence[Fact], cache: ByteCache, limits: Limits
    ) -> tuple[EditState, Trained]:
        """Train ``group`` into the present shard, together with similar facts of the shard, and let
        the scope signal learn it."""
        payload, number = _payload(state), self.work_unit(state)
        fresh = still_in_force(state, group)
        payload, facts, learning = self._facts_to_train(state, number, fresh)
        shard = payload.shards[number] if number < len(payload.shards) else None
        groups = (*(shard.groups if shard else ()), facts[: len(group) + _rehearsed(group)])
        key = self._recipe(state, number, groups, fresh, facts)
        saved = cache.get(key)
        if saved is not None:
            tensors = from_bytes(saved)
        else:
            if self._names_facts:
                new = [state.facts[fact] for fact in fresh]
                learning = learning or self._scope.signal(payload.scope).learn(new)
            trained = self._train_shard(
                state, number, shard, facts, len(groups[-1]), limits, learning
            )
            threshold = min(trained.threshold, shard.threshold if shard else float("inf"))
            mask = shard.mask if shard else self._mask(number)
            tensors = Shard(groups, mask, trained.values, threshold).tensors() | {
                "iterations": torch.tensor([trained.iterations]),
                "failed": torch.tensor(trained.failed, dtype=torch.long),
            }
            if learning:
                tensors |= packed([*learning.keys().values()])
            cache.put(key, to_bytes(tensors))
        payload = payload.with_shard(number, Shard.from_tensors(groups, tensors))
        if self._names_facts:
            learnt = dict(zip(fresh, unpacked(tensors), strict=True))
            payload = replace(payload, scope=payload.scope.knowing(learnt))
        failed = tuple(facts[i] for i in tensors["failed"].tolist())
        return replace(state, payload=payload), Trained(facts, failed, int(tensors["iterations"]))

    def skip(self, state: EditState, group: Sequence[Fact]) -> EditState:
        """Enter the ids of ``group`` in the present shard. Later groups do not depend on its
        values."""
        payload, number = _payload(state), self.work_unit(state)
        groups = payload.shards[number].groups if number < len(payload.shards) else ()
        fresh = still_in_force(state, group)
        untrained = Shard((*groups, fresh), self._mask(number), torch.zeros(0))
        return replace(state, payload=payload.with_shard(number, untrained))

    def finish(self, state: EditState) -> EditState:
        """``state`` with the scope keys of all facts in force, and of no other facts."""
        if not self._names_facts:
            return state
        payload, in_force = _payload(state), state.in_force()
        scope = self._scope.knowing(payload.scope, in_force)  # facts reapplied after an undo
        scope = scope.only([fact.id for fact in in_force])
        return replace(state, payload=replace(payload, scope=scope))

    def _facts_to_train(
        self, state: EditState, number: int, fresh: Group
    ) -> tuple[WisePayload, Group, Learning | None]:
        """The facts that shard ``number`` is trained on or checked for, with the scope keys that
        are learnt for that.

        ``fresh`` (new facts) come first, then the most similar facts of the shard, as similar facts
        interfere. The number of these is limited, so that the cost of an edit does not grow with
        the shard. The learning of the new facts is returned if their similarity was needed.
        """
        payload = _payload(state)
        if number == len(payload.shards) or self.settings.training == "sequential":
            return payload, fresh, None
        excluded = {*fresh, *state.closed}
        others = [fact for fact in payload.shards[number].facts if fact not in excluded]
        learning = None
        if self._names_facts and fresh and len(others) > _rehearsed(fresh):
            scope = self._scope.knowing(payload.scope, [state.facts[fact] for fact in others])
            payload = replace(payload, scope=scope)
            signal = self._scope.signal(scope)
            learning = signal.learn([state.facts[fact] for fact in fresh])
            new_keys, keys = learning.own_keys, scope.keys
            nearest = {
                fact: max(signal.similarity(new_keys[new_fact], keys[fact]) for new_fact in fresh)
                for fact in others
            }
            others.sort(key=lambda fact: -nearest[fact])
        return payload, (*fresh, *others[: CHECKED_PER_REHEARSED * _rehearsed(fresh)]), learning

    def _train_shard(
        self,
        state: EditState,
        number: int,
        shard: Shard | None,
        facts: Group,
        trained_count: int,
        limits: Limits,
        learning: Learning | None,
    ) -> ShardTraining:
        """Train shard ``number`` on the first ``trained_count`` of ``facts``; the others are only
        checked. ``shard``: its values so far, None for a new shard."""
        settings, base = self.settings, self.base
        mask = shard.mask if shard else self._mask(number)
        start = shard.values if shard else None
        rows = training_rows(
            base, [state.facts[fact] for fact in facts], self._scope.prefixes, settings.prefixes
        )
        if settings.training == "joint":
            joint = JointSettings(
                settings.max_steps,
                settings.learning_rate,
                settings.confidence,
                batch_size_on(base.device),
            )
            request = learning.request if learning else None
            seed, memory = self.seed + number, limits.memory_bytes
            return train_jointly(
                base, rows, trained_count, mask, start, joint, seed, memory, request
            )
        sequential = SequentialSettings(
            settings.max_steps,
            settings.learning_rate,
            alpha=settings.alpha,
            beta=settings.beta,
            gamma=settings.gamma,
        )
        unrelated = [Row.of_prompt(encode_prompt(base.tokenizer, text)) for text in UNRELATED]
        return train_sequentially(
            base, rows, unrelated, mask, start, sequential, limits.memory_bytes
        )

    def _mask(self, number: int) -> Mask:
        shape = (self.base.projection.out_features, self.base.projection.in_features)
        return Mask(shape, self.settings.mask_ratio, (self.seed * 1_000_003 + number) % 2**63)

    def _recipe(
        self,
        state: EditState,
        number: int,
        groups: Sequence[Group],
        fresh: Group,
        facts: Group,
    ) -> str:
        """A digest of everything that the values of a shard and the keys of its facts depend on."""
        recorded_facts = [state.facts[fact] for group in groups for fact in group]
        recipe = [
            state.fingerprint,
            self.base.layer,
            str(self.base.projection.weight(self.base.model).dtype),
            asdict(cast("Any", self.settings)),
            self.seed,
            number,
            [list(group) for group in groups],
            list(fresh),
            list(facts),
            {f.id: [f.subject, f.prompt, f.target, *f.variants] for f in recorded_facts},
            [batch_size_on(self.base.device), *BETAS, LATE_CONFIDENCE, RECHECK_AFTER],
        ]
        return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()

    # --- answering ------------------------------------------------------------------------------

    def replacements(self, state: EditState) -> dict[str, nn.Module]:
        memories = self._memories(_payload(state).shards)
        path = self.base.fingerprinted_projection.path
        if not memories:
            return {}
        return {path: SideMemoryLinear(self.base.model.get_submodule(path), memories)}

    def _memories(self, shards: tuple[Shard, ...]) -> list[Memory]:
        """The side memories: the shards, or each ``merge_every`` shards merged into one (WISE
        section 2.3.3)."""
        if self._merged is None or self._merged[0] is not shards:
            self._merged = shards, self._merge(shards)
        return self._merged[1]

    def _merge(self, shards: tuple[Shard, ...]) -> list[Memory]:
        every = self.settings.merge_every
        if every < 1:
            return list(shards)
        memories: list[Memory] = []
        for start in range(0, len(shards), every):
            part = shards[start : start + every]
            if len(part) == 1:
                memories.append(part[0])
                continue
            deltas = [shard.delta() for shard in part]
            delta = merge(self.settings.merge, deltas, self.settings.density)
            memories.append(MergedShards(delta, min(shard.threshold for shard in part)))
        return memories

    def router(self, state: EditState) -> Router | None:
        payload = _payload(state)
        if not payload.shards:
            return NoClaims()
        if not self._names_facts:
            memories = self._memories(payload.shards)
            return ActivationRouter(self.base, memories, self.settings.act_ratio)
        shard_of, every = payload.shard_of(), max(1, self.settings.merge_every)

        def memory_of(fact: str) -> int:
            return -1 if fact in state.closed else shard_of[fact] // every

        return self._scope.router(
            payload.scope, state.facts, memory_of, context_first=state.prefers_context
        )

    def explain(self, decision: Decision | None, state: EditState) -> tuple[str, dict[str, Any]]:
        if decision is None or not decision.opened:
            return "", {"shard": None}
        fact = f", fact {decision.fact}" if decision.fact else ""
        scope = _payload(state).scope
        signal = self._scope.signal(scope) if self._names_facts else None
        why = signal.explain(decision) if signal else explain_score(decision)
        return f"side memory, shard {decision.memory}{fact}: {why}", {"shard": decision.memory}


def _payload(state: EditState) -> WisePayload:
    payload = state.payload
    assert isinstance(payload, WisePayload)
    return payload


def _rehearsed(group: Sized) -> int:
    """The number of earlier facts that are trained again together with ``group``."""
    return max(REHEARSAL_FACTS, len(group))
