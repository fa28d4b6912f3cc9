"""WISE on one base: which facts share a shard, how a shard is trained, and who answers a prompt.

The main memory stays frozen. A shard holds at most ``shard_size`` facts, on a random mask or, with
``memory=low-rank``, as a product of two small matrices, which other engines can hold. A router
decides which memory answers. ``profile=paper`` makes the choices of the paper (arXiv 2405.14768):
edits are trained one after the other with the margins of Eq. 5, memories are chosen by activation,
and shards are merged by TIES. ``profile=robust``, the default, trains the facts of a shard together
on their targets, and a scope signal decides; ``profile=separate`` gives each fact a shard of its
own. New facts of a shard are trained together with the earlier facts of the shard that are most
similar to them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Mapping, Sequence, Sized
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from editors.facts import Fact
from editors.inference.decisions import Decision, NoClaims, Router
from editors.methods.applying import NO_CACHE, UNLIMITED, Applied, Limits, Trained
from editors.methods.base import Method
from editors.methods.edit_state import EditState
from editors.methods.elsewhere import Elsewhere
from editors.methods.low_rank import LowRankMemory
from editors.methods.spec import MethodSpec
from editors.methods.training.forms import forms_of, judged_forms
from editors.methods.training.loops import Training
from editors.methods.training.rows import form_rows, training_rows
from editors.methods.training.suffix_replay import require_replay
from editors.methods.wise import SPEC, shard_adapters
from editors.methods.wise.activation import ActivationRouter
from editors.methods.wise.memory_layer import SideMemoryLinear
from editors.methods.wise.merging import MERGES, merged_in_parts
from editors.methods.wise.payload import WisePayload
from editors.methods.wise.settings import WiseSettings
from editors.methods.wise.shards import Group, LowRank, Mask, Memory, MergedShards, Shard, Support
from editors.methods.wise.training.any_prompt import AnyPrompt
from editors.methods.wise.training.joint import batch_size_on, train_jointly
from editors.methods.wise.training.sequential import train_sequentially
from editors.model.base_model import Base
from editors.model.saved_payload import SavedPayload
from editors.model.tensor_files import to_bytes
from editors.model.tokenization import Prompt, Row, encode_prompt
from editors.scope.base import ByteCache, Learning, explain_score
from editors.scope.corpus import Corpus
from editors.scope.fact_scope import FactScope
from editors.scope.scope_state import ScopeState, packed, unpacked
from editors.scope.unrelated_prompts import UNRELATED

TRAINER = 5  # raise it when training or one of its constants changes: stored work is of the old one
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
        self._any_prompt = AnyPrompt(base)
        self._merged: tuple[tuple[Shard, ...], list[Memory]] = (), []  # shards, their memories

    def initial_payload(self, corpus: Corpus, cache: ByteCache) -> WisePayload:
        require_replay(self.base)
        if not self._names_facts:
            return WisePayload(ScopeState(ACTIVATION))
        return WisePayload(self._scope.start(corpus, cache))

    def dump(self, payload: WisePayload) -> SavedPayload:
        return payload.dump()

    def load(self, saved: SavedPayload, state: EditState) -> WisePayload:
        return WisePayload.load(saved, [*state.facts])

    # --- training -------------------------------------------------------------------------------

    def require_trainable(self, fact: Fact) -> None:
        training_rows(self.base, [fact])

    def group_size(self, state: EditState) -> int:
        """As many facts as the present shard has room for."""
        shards, number = state.payload.shards, self.work_unit(state)
        return self._shard_size - (len(shards[number].facts) if number < len(shards) else 0)

    def work_unit(self, state: EditState) -> int:
        """The number of the shard that takes the next fact."""
        shards = state.payload.shards
        full = not shards or len(shards[-1].facts) >= self._shard_size
        return len(shards) if full else len(shards) - 1

    def _present(self, state: EditState, group: Sequence[Fact]) -> Shard:
        """The shard that takes ``group``, maybe a new one, without facts. Its seed depends on its
        first fact, and not on the shards before it, which may be taken out later."""
        payload: WisePayload = state.payload
        number, shards = self.work_unit(state), payload.shards
        if number < len(shards):
            return shards[number]
        drawn_for = json.dumps([self.seed, group[0].id])
        seed = int(sha256(drawn_for.encode()).hexdigest()[:15], 16)
        return Shard((), self._support(seed), torch.zeros(0))

    def _support(self, seed: int) -> Support:
        settings, projection = self.settings, self.base.projection
        if settings.memory == "low-rank":
            return LowRank.of(projection.weight(self.base.model), settings.memory_rank, seed)
        return Mask((projection.out_features, projection.in_features), settings.mask_ratio, seed)

    @functools.cached_property
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
        payload = state.payload.entering([fact.id for fact in group], chats=limits.chats)
        state = replace(state, payload=payload)
        number, shard = self.work_unit(state), self._present(state, group)
        return self._train_into(number, shard, state, group, cache, limits)

    def _train_into(
        self,
        number: int,
        shard: Shard,
        state: EditState,
        group: Sequence[Fact],
        cache: ByteCache,
        limits: Limits,
    ) -> tuple[EditState, Trained]:
        """Train ``group`` into ``shard``, which becomes the last one, with this ``number``."""
        payload: WisePayload = state.payload
        ids_of_group = [fact.id for fact in group]
        learn = functools.cache(lambda: self._scope.signal(payload.scope).learn(group))
        facts = self._facts_to_train(state, shard, group, learn)
        trained = facts[: len(group) + _rehearsed(group)]

        def tensors_trained() -> dict[str, torch.Tensor]:
            learning = learn() if self._names_facts else None
            forms = self._forms(payload, trained, learning)
            training = self._train_shard(shard, facts, forms, limits, learning)
            threshold = min(training.threshold, shard.threshold)
            tensors = Shard((), shard.support, training.values, threshold).tensors()
            keys = packed([*learning.keys().values()]) if learning else {}
            return tensors | training.counts() | keys

        recipe = [
            *(TRAINER, batch_size_on(self.base.device), len(group), len(trained)),
            sha256(to_bytes(shard.tensors())).hexdigest(),
            [[fact.id, fact.subject, fact.target, *fact.trained_prompts()] for fact in facts],
            [fact.id for fact in trained if fact.id in payload.plain],
        ]
        ids = tuple(fact.id for fact in facts)
        made_from = {*shard.facts, *ids}
        tensors = self.trained_once(cache, recipe, made_from, tensors_trained)
        groups = (*shard.groups, ids[: len(trained)])
        payload = payload.with_shard(number, Shard.from_tensors(groups, tensors))
        if self._names_facts:
            keys = dict(zip(ids_of_group, unpacked(tensors), strict=True))
            payload = replace(payload, scope=payload.scope.knowing(keys))
        return replace(state, payload=payload), Trained.of(ids, tensors)

    def skip(self, state: EditState, group: Sequence[Fact]) -> EditState:
        """Enter the ids of ``group`` in the present shard. Later groups do not depend on its
        values."""
        shard = self._present(state, group)
        groups = (*shard.groups, tuple(fact.id for fact in group))
        untrained = Shard(groups, shard.support, torch.zeros(0))
        payload = state.payload.with_shard(self.work_unit(state), untrained)
        return replace(state, payload=payload)

    def without(self, state: EditState, facts: Collection[str]) -> Applied:
        """Shards that took one of ``facts`` are trained again from their facts in force, in the
        same groups; those that are left without one are gone."""
        payload: WisePayload = state.payload
        rest = payload.scope.dropping(facts) if self._names_facts else payload.scope
        plain = tuple(fact for fact in payload.plain if fact not in facts)
        kept = state.dropping(facts)
        kept = replace(kept, payload=replace(payload, scope=rest, shards=(), plain=plain))
        failed: list[str] = []
        steps = 0
        for shard in payload.shards:
            number = len(kept.payload.shards)
            if not set(facts).isdisjoint(shard.facts):
                groups = _first_trained(shard.groups, {fact.id for fact in kept.in_force()})
                shard = Shard((), self._support(shard.support.seed), torch.zeros(0))
                for ids in groups:
                    group = [kept.facts[fact] for fact in ids]
                    kept, trained = self._train_into(
                        number, shard, kept, group, NO_CACHE, UNLIMITED
                    )
                    shard = kept.payload.shards[number]
                    judged = {*trained.judged}
                    failed = [fact for fact in failed if fact not in judged] + [*trained.failed]
                    steps += trained.iterations
            else:
                kept = replace(kept, payload=kept.payload.with_shard(number, shard))
        return Applied(kept, failed=tuple(failed), iterations=steps)

    def contradicted(self, state: EditState, facts: Sequence[Fact]) -> Mapping[str, str]:
        if not self._names_facts:
            return {}
        return self._scope.contradicted(state.payload.scope, state.in_force(), facts)

    def finish(self, state: EditState) -> EditState:
        """``state`` with the scope keys of all facts in force, and of no other facts."""
        if not self._names_facts:
            return state
        payload = state.payload
        scope = self._scope.only(payload.scope, state.in_force())
        return replace(state, payload=replace(payload, scope=scope))

    def _facts_to_train(
        self, state: EditState, shard: Shard, group: Sequence[Fact], learn: Callable[[], Learning]
    ) -> Sequence[Fact]:
        """The facts that ``shard`` is trained on or checked for.

        New facts (``group``) come first, then the most similar facts of the shard, as similar facts
        interfere. The number of these is limited, so that the cost of an edit does not grow with
        the shard. ``learn`` is called if the similarity of the new facts is needed.
        """
        if self.settings.training == "sequential":
            return group
        excluded = {*(fact.id for fact in group), *state.closed}
        others = [fact for fact in shard.facts if fact not in excluded]
        if len(others) > _rehearsed(group):
            scope, new = state.payload.scope, learn().own_keys.values()
            signal = self._scope.signal(scope)
            others.sort(key=lambda f: -max(signal.similarity(own, scope.keys[f]) for own in new))
        checked = others[: CHECKED_PER_REHEARSED * _rehearsed(group)]
        return [*group, *(state.facts[fact] for fact in checked)]

    def _forms(
        self, payload: WisePayload, facts: Sequence[Fact], learning: Learning | None
    ) -> tuple[list[list[Prompt]], list[list[str]]]:
        """The forms that each of ``facts`` is trained in, besides its own prompts, and those by
        which it is judged. They depend on the facts, on which of them are plain, and on the
        calibration, which is the same for all work of a store."""
        if learning is None:
            return [[] for _ in facts], [[] for _ in facts]
        scope, own = payload.scope, learning.own_keys
        signal = self._scope.signal(scope)
        template = self.base.tokenizer.chat_template is not None
        keys = [own[fact.id] if fact.id in own else scope.keys[fact.id] for fact in facts]
        known = [signal.wordings(fact, of_fact) for fact, of_fact in zip(facts, keys, strict=True)]
        trained = [
            forms_of(fact, wordings, chats=template and fact.id not in payload.plain)
            for fact, wordings in zip(facts, known, strict=True)
        ]
        judged = [*map(judged_forms, facts, known, trained)]
        return trained, judged

    def _train_shard(
        self,
        shard: Shard,
        facts: Sequence[Fact],
        forms: tuple[Sequence[Sequence[Prompt]], Sequence[Sequence[str]]],
        limits: Limits,
        learning: Learning | None,
    ) -> Training:
        """Train ``shard`` on the first of ``facts``, in these ``forms``, and judge them; the
        others, which have no forms, are only checked."""
        settings, base, memory = self.settings, self.base, limits.memory_bytes
        start = shard.values if shard.facts else None
        trained_forms, judged = forms
        count = len(trained_forms)
        of_each = [*trained_forms, *([()] * (len(facts) - count))]
        rows = training_rows(base, facts, self._scope.prefixes, settings.prefixes, of_each)
        if settings.training == "joint":
            request = learning.request if learning else None
            untrained = form_rows(base, facts[:count], judged)
            # A memory of several facts has to tell their prompts apart.
            of_one_fact = self._shard_size == 1 and settings.merge_every <= 1
            also = self._any_prompt.before(facts[0].target) if of_one_fact else ()
            return train_jointly(
                base, rows, count, shard.support, start, settings, shard.support.seed,
                memory_bytes=memory, request=request, judged=untrained, also=also,
            )  # fmt: skip
        unrelated = [Row.of_prompt(encode_prompt(base.tokenizer, text)) for text in UNRELATED]
        assert isinstance(shard.support, Mask)  # the settings see to it
        return train_sequentially(base, rows, unrelated, shard.support, start, settings, memory)

    # --- answering ------------------------------------------------------------------------------

    def replacements(self, state: EditState) -> dict[str, nn.Module]:
        memories = self._memories(state.payload.shards)
        if not memories:
            return {}
        path = self.base.projection.path
        return {path: SideMemoryLinear(self.base.model.get_submodule(path), memories)}

    def _memories(self, shards: tuple[Shard, ...]) -> list[Memory]:
        """The side memories: the shards, or each ``merge_every`` shards merged into one (WISE
        section 2.3.3)."""
        if self._merged[0] is not shards:
            every = max(1, self.settings.merge_every)
            parts = [shards[start : start + every] for start in range(0, len(shards), every)]
            self._merged = shards, [*map(self._memory, parts)]
        return self._merged[1]

    def _memory(self, shards: tuple[Shard, ...]) -> Memory:
        """The side memory of one shard, or of several that are merged."""
        if len(shards) == 1:
            return shards[0]
        deltas = [shard.delta() for shard in shards]
        delta = MERGES[self.settings.merge](deltas, self.settings.density)
        return MergedShards(delta, min(shard.threshold for shard in shards))

    def always_on(self, state: EditState) -> dict[str, torch.Tensor]:
        """All shards that hold a fact in force, merged as ``merge`` says."""
        payload: WisePayload = state.payload
        current = {n for fact, n in payload.shard_of().items() if fact not in state.closed}
        if not current:
            return {}
        deltas = [payload.shards[number].delta() for number in sorted(current)]
        merge, density = MERGES[self.settings.merge], self.settings.density
        return {self.base.projection.path: merged_in_parts(deltas, merge, density)}

    def low_rank_memories(self, state: EditState) -> dict[int, LowRankMemory]:
        return shard_adapters.low_rank_memories(self.settings, state)

    def router(self, state: EditState) -> Router | None:
        payload: WisePayload = state.payload
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

    def elsewhere(self, state: EditState) -> Elsewhere:
        """The engine holds each shard as an adapter of the shard's name."""
        shard_adapters.require_adapters(self.settings)
        self._scope.require_no_base(state.payload.scope)
        return shard_adapters.elsewhere(self.base, self.router(state) or NoClaims(), state)

    def other_model(self, state: EditState) -> Path | None:
        return self._scope.other_model(state.payload.scope) if self._names_facts else None

    def with_other_model(self, state: EditState, folder: Path) -> EditState:
        scope = self._scope.with_other_model(state.payload.scope, folder)
        return replace(state, payload=replace(state.payload, scope=scope))

    def explain(self, decision: Decision | None, state: EditState) -> tuple[str, dict[str, Any]]:
        if decision is None or not decision.opened:
            return "", {"shard": None}
        fact = f", fact {decision.fact}" if decision.fact else ""
        scope = state.payload.scope
        if self._names_facts:
            why = self._scope.signal(scope).explain(decision, scope.keys[decision.fact])
        else:
            why = explain_score(decision)
        return f"side memory, shard {decision.memory}{fact}: {why}", {"shard": decision.memory}


def _first_trained(groups: Sequence[Group], wanted: Collection[str]) -> list[list[str]]:
    """Those of the ``wanted`` facts that each of ``groups`` was the first to train, where there are
    some."""
    seen: set[str] = set()
    first: list[list[str]] = []
    for group in groups:
        first.append([fact for fact in group if fact in wanted and fact not in seen])
        seen.update(group)
    return [group for group in first if group]


def _rehearsed(group: Sized) -> int:
    """The number of earlier facts that are trained again together with ``group``."""
    return max(REHEARSAL_FACTS, len(group))
