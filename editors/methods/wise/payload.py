"""The payload of WISE: its shards, and the state of its scope signal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from editors.methods.edit_state import SavedPayload
from editors.methods.wise.shards import Shard
from editors.model.tensor_files import from_bytes, to_bytes
from editors.scope.scope_state import ScopeState


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
        scope, blobs = self.scope.dump()
        for number, shard in enumerate(self.shards):
            blobs[_name(number)] = to_bytes(shard.tensors())
        shards = [[list(group) for group in shard.groups] for shard in self.shards]
        summary = {"shards": shards, "scope": scope, "plain": list(self.plain)}
        return SavedPayload(summary, blobs)

    @staticmethod
    def load(saved: SavedPayload) -> WisePayload:
        """The payload that :meth:`dump` wrote; raises StateMismatch, LookupError or ValueError for
        other data."""
        shards = tuple(
            Shard.from_tensors(tuple(map(tuple, groups)), from_bytes(saved.blobs[_name(number)]))
            for number, groups in enumerate(saved.summary["shards"])
        )
        scope = ScopeState.load(saved.summary["scope"], saved.blobs)
        return WisePayload(scope, shards, tuple(saved.summary.get("plain", ())))


def shard_name(number: int) -> str:
    """What the shard with this number is called in files and exports."""
    return f"shard-{number:04d}"


def _name(number: int) -> str:
    return f"{shard_name(number)}.safetensors"
