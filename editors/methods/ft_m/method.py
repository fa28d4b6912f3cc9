"""FT-M on one base. Facts are trained in groups, one group after the other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, cast

import torch
from torch import nn

from editors.facts import Fact, FactClosure
from editors.inference.decisions import Decision
from editors.methods.base import (
    NO_CACHE,
    UNLIMITED,
    Applied,
    Limits,
    Method,
    Trained,
    still_in_force,
)
from editors.methods.edit_state import EditState, SavedPayload
from editors.methods.ft_m import SPEC, FtMSettings
from editors.methods.ft_m.training import DenseDelta, fine_tune
from editors.methods.spec import MethodSpec
from editors.methods.training.rows import training_rows
from editors.methods.training.suffix_replay import require_replay
from editors.model.base_model import Base
from editors.model.tensor_files import from_bytes, to_bytes
from editors.model.tokenization import encode_pairs
from editors.scope.base import ByteCache
from editors.scope.phrasings import Phrasings
from editors.scope.unrelated_prompts import UNRELATED, UnrelatedPrefixes

DELTA = "delta.safetensors"


@dataclass(frozen=True, slots=True)
class FtMPayload:
    """``groups``: the ids of the facts that were trained together, in order; ``delta``: ``[out,
    in]``, the change of the weight of the projection, in the dtype of the base (None: none yet)."""

    groups: tuple[tuple[str, ...], ...] = ()
    delta: torch.Tensor | None = None


class FtM(Method[FtMPayload, FtMSettings]):
    """Fine-tuning of the edited projection."""

    spec: ClassVar[MethodSpec] = SPEC

    def __init__(self, base: Base, settings: FtMSettings, seed: int) -> None:
        super().__init__(base, settings, seed)
        self._prefixes = UnrelatedPrefixes(base)

    def initial_payload(self, phrasings: Sequence[Phrasings], cache: ByteCache) -> FtMPayload:
        pairs = [(text, "yes") for text in UNRELATED[:2]]
        require_replay(
            self.base, self.base.batch(encode_pairs(self.base.tokenizer, pairs, stop=True))
        )
        return FtMPayload()

    def require_trainable(self, fact: Fact) -> None:
        training_rows(self.base, [fact], self._prefixes, 0)

    def group_size(self, state: EditState) -> int:
        return self.settings.group_size

    def train(
        self, state: EditState, group: Sequence[Fact], cache: ByteCache, limits: Limits
    ) -> tuple[EditState, Trained]:
        """Fine-tune on ``group``, starting from the change by the groups before."""
        payload: FtMPayload = state.payload
        ids = still_in_force(state, group)
        groups = (*payload.groups, ids)
        key = self._recipe(state, groups)
        saved = cache.get(key)
        if saved is not None:
            tensors = from_bytes(saved)
        else:
            facts = [state.facts[fact] for fact in ids]
            rows = training_rows(self.base, facts, self._prefixes, 0)
            seed = self.seed + len(groups)
            tuned = fine_tune(
                self.base, rows, payload.delta, self.settings, seed, limits.memory_bytes
            )
            tensors = {
                "delta": tuned.delta,
                "failed": torch.tensor(tuned.failed, dtype=torch.long),
                "steps": torch.tensor(tuned.steps),
            }
            cache.put(key, to_bytes(tensors))
        failed = tuple(ids[number] for number in tensors["failed"].tolist())
        state = replace(state, payload=FtMPayload(groups, tensors["delta"]))
        return state, Trained(ids, failed, int(tensors["steps"]))

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

    def dump(self, payload: FtMPayload) -> SavedPayload:
        blobs = {} if payload.delta is None else {DELTA: to_bytes({"delta": payload.delta})}
        return SavedPayload({"groups": [list(group) for group in payload.groups]}, blobs)

    def load(self, saved: SavedPayload, state: EditState) -> FtMPayload:
        groups = tuple(tuple(group) for group in saved.summary["groups"])
        return FtMPayload(groups, from_bytes(saved.blobs[DELTA])["delta"] if groups else None)

    def replacements(self, state: EditState) -> dict[str, nn.Module]:
        payload: FtMPayload = state.payload
        if payload.delta is None:
            return {}
        path = self.base.projection.path
        return {path: DenseDelta(self.base.model.get_submodule(path), payload.delta)}

    def explain(self, decision: Decision | None, state: EditState) -> tuple[str, dict[str, Any]]:
        tuned = state.payload.delta is not None
        return "fine-tuned weights, which answer every prompt" if tuned else "", {}

    def _recipe(self, state: EditState, groups: Sequence[Sequence[str]]) -> str:
        """A digest of everything that the result of training depends on."""
        facts = [[state.facts[fact] for fact in group] for group in groups]
        recipe = [
            state.fingerprint,
            self.base.layer,
            asdict(cast("Any", self.settings)),
            self.seed,
            [[[fact.prompt, fact.target, *fact.variants] for fact in group] for group in facts],
        ]
        return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
