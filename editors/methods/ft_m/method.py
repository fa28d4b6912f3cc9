"""FT-M on one base. Facts are trained in groups, one group after the other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import nn

from editors.facts import Fact, FactClosure
from editors.inference.decisions import Decision
from editors.methods.applying import NO_CACHE, UNLIMITED, Applied, Limits, Trained
from editors.methods.base import Method
from editors.methods.edit_state import EditState
from editors.methods.ft_m import DELTA, SPEC, FtMSettings
from editors.methods.ft_m.training import DenseDelta, fine_tune
from editors.methods.spec import MethodSpec
from editors.methods.training.rows import training_rows
from editors.methods.training.suffix_replay import require_replay
from editors.model.saved_payload import SavedPayload
from editors.model.tensor_files import from_bytes, to_bytes
from editors.scope.base import ByteCache
from editors.scope.corpus import Corpus

TRAINER = 1  # raise it when training or one of its constants changes: stored work is of the old one


@dataclass(frozen=True, slots=True)
class FtMPayload:
    """``groups``: the ids of the facts that were trained together, in order; ``delta``: ``[out,
    in]``, the change of the weight of the projection, in the dtype of the base (None: none yet)."""

    groups: tuple[tuple[str, ...], ...] = ()
    delta: torch.Tensor | None = None


class FtM(Method[FtMPayload, FtMSettings]):
    """Fine-tuning of the edited projection."""

    spec: ClassVar[MethodSpec] = SPEC

    def initial_payload(self, corpus: Corpus, cache: ByteCache) -> FtMPayload:
        require_replay(self.base)
        return FtMPayload()

    def require_trainable(self, fact: Fact) -> None:
        training_rows(self.base, [fact])

    def group_size(self, state: EditState) -> int:
        return self.settings.group_size

    def train(
        self, state: EditState, group: Sequence[Fact], cache: ByteCache, limits: Limits
    ) -> tuple[EditState, Trained]:
        """Fine-tune on ``group``, starting from the change by the groups before."""
        payload: FtMPayload = state.payload
        ids = tuple(fact.id for fact in group)
        groups = (*payload.groups, ids)
        start = {} if payload.delta is None else {"delta": payload.delta}
        texts = [[fact.target, *fact.trained_prompts()] for fact in group]

        def tuned() -> dict[str, torch.Tensor]:
            rows = training_rows(self.base, group)
            seed = self.seed + len(groups)
            training = fine_tune(
                self.base, rows, payload.delta, self.settings, seed, limits.memory_bytes
            )
            return {"delta": training.values, **training.counts()}

        recipe = [TRAINER, len(groups), sha256(to_bytes(start)).hexdigest(), texts]
        tensors = self.trained_once(cache, recipe, [*chain.from_iterable(groups)], tuned)
        payload = FtMPayload(groups, tensors["delta"])
        return replace(state, payload=payload), Trained.of(ids, tensors)

    def remove(self, state: EditState, facts: Sequence[str]) -> Applied:
        """Train all remaining facts again from the start, in the same groups. The result is as if
        ``facts``, and all facts closed earlier, had never been applied."""
        closed_state = state.closing({fact: FactClosure("undone") for fact in facts})
        retrained = replace(closed_state, payload=FtMPayload())
        failed: list[str] = []
        steps = 0
        for group in state.payload.groups:
            if ids := [fact for fact in group if fact not in closed_state.closed]:
                retrained, trained = self.train(
                    retrained, [closed_state.facts[fact] for fact in ids], NO_CACHE, UNLIMITED
                )
                failed += trained.failed
                steps += trained.iterations
        return Applied(retrained, failed=tuple(failed), iterations=steps)

    def without(self, state: EditState, facts: Collection[str]) -> Applied:
        removed = self.remove(state, [fact for fact in facts if fact in state.facts])
        return replace(removed, state=removed.state.dropping(facts))

    def dump(self, payload: FtMPayload) -> SavedPayload:
        if payload.delta is None:
            return SavedPayload({})
        blobs = {DELTA: to_bytes({"delta": payload.delta})}
        return SavedPayload({}, blobs, {DELTA: payload.groups})

    def load(self, saved: SavedPayload, state: EditState) -> FtMPayload:
        groups = saved.made_from.get(DELTA, ())
        return FtMPayload(groups, from_bytes(saved.blobs[DELTA])["delta"] if groups else None)

    def replacements(self, state: EditState) -> dict[str, nn.Module]:
        payload: FtMPayload = state.payload
        if payload.delta is None:
            return {}
        path = self.base.projection.path
        return {path: DenseDelta(self.base.model.get_submodule(path), payload.delta)}

    def always_on(self, state: EditState) -> dict[str, torch.Tensor]:
        delta = state.payload.delta
        return {} if delta is None else {self.base.projection.path: delta.float()}

    def explain(self, decision: Decision | None, state: EditState) -> tuple[str, dict[str, Any]]:
        tuned = state.payload.delta is not None
        return "fine-tuned weights, which answer every prompt" if tuned else "", {}
