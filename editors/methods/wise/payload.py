"""The payload of WISE: its shards, and the state of its scope signal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from editors.methods.wise import SHARD
from editors.methods.wise.shards import Shard
from editors.model.saved_payload import SavedPayload
from editors.model.tensor_files import from_bytes, to_bytes
from editors.scope.scope_state import ScopeState

PLAIN = "plain"  # of a shard's tensors: which of its facts are trained in plain prompts only


@dataclass(frozen=True, slots=True)
class WisePayload:
    """``scope``: what the scope signal knows; ``shards``: in the order in which they were begun;
    ``plain``: the ids of the facts that are trained in plain prompts only, never in chats."""

    scope: ScopeState
    shards: tuple[Shard, ...] = ()
    plain: tuple[str, ...] = ()

    def shard_of(self) -> dict[str, int]:
        """By fact id, the number of the last shard that holds the fact."""
        return {fact: n for n, shard in enumerate(self.shards) for fact in shard.facts}

    def with_shard(self, number: int, shard: Shard) -> WisePayload:
        """The payload with ``shard`` as shard ``number``, the last one."""
        return replace(self, shards=(*self.shards[:number], shard))

    def entering(self, facts: Sequence[str], *, chats: bool) -> WisePayload:
        """The payload with ``facts`` (ids) to be trained in ``chats``, too, or in plain prompts
        only."""
        others = tuple(fact for fact in self.plain if fact not in facts)
        return replace(self, plain=others if chats else (*others, *facts))

    def dump(self) -> SavedPayload:
        scope = self.scope.dump()
        blobs, made_from = dict(scope.blobs), dict(scope.made_from)
        for number, shard in enumerate(self.shards):
            tensors = shard.tensors()
            if not set(self.plain).isdisjoint(shard.facts):
                tensors[PLAIN] = torch.tensor([fact in self.plain for fact in shard.facts])
            blobs[_name(number)] = to_bytes(tensors)
            made_from[_name(number)] = shard.groups
        return SavedPayload({"scope": scope.summary}, blobs, made_from)

    @staticmethod
    def load(saved: SavedPayload, order: Sequence[str]) -> WisePayload:
        """The payload that :meth:`dump` wrote; ``order``: ids of facts, those of the payload among
        them, in the order of editing. Raises StateMismatch, LookupError or ValueError for other
        data."""
        shards: list[Shard] = []
        plain: list[str] = []
        for number in range(shard_count(saved)):
            name = _name(number)
            tensors = from_bytes(saved.blobs[name])
            shards.append(Shard.from_tensors(saved.made_from[name], tensors))
            if PLAIN in tensors:
                flags = zip(shards[-1].facts, tensors[PLAIN].tolist(), strict=True)
                plain += [fact for fact, is_plain in flags if is_plain]
        own = SavedPayload(saved.summary["scope"], saved.blobs, saved.made_from)
        return WisePayload(ScopeState.load(own, order), tuple(shards), tuple(dict.fromkeys(plain)))


def shard_count(saved: SavedPayload) -> int:
    """The number of shards."""
    return sum(name.startswith(SHARD) for name in saved.made_from)


def _name(number: int) -> str:
    return f"{SHARD}{number:04d}.safetensors"
