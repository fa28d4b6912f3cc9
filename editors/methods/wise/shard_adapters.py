"""Shards of low rank outside of editcli: as adapters of PEFT, which other engines can hold."""

from __future__ import annotations

from collections.abc import Sequence

from editors.errors import EditorError
from editors.inference.decisions import Router, decided
from editors.methods.edit_state import EditState
from editors.methods.elsewhere import Dispatch, Elsewhere
from editors.methods.low_rank import MAKE_A_STORE, LowRankMemory
from editors.methods.wise.payload import shard_name
from editors.methods.wise.settings import WiseSettings
from editors.model.base_model import Base
from editors.model.tokenization import Prompt, encode_prompts


def low_rank_memories(settings: WiseSettings, state: EditState) -> dict[int, LowRankMemory]:
    """By number, the shards that answer a fact in force, as memories of low rank. Raises
    EditorError if they are not of low rank."""
    if settings.memory != "low-rank":
        raise EditorError(
            "this store has memory=masked, and adapters of PEFT are made of low rank",
            MAKE_A_STORE,
        )
    if settings.merge_every > 1:
        raise EditorError(
            f"this store has merge_every={settings.merge_every}, and merged shards are not of "
            "low rank",
            MAKE_A_STORE,
        )
    facts: dict[int, tuple[str, ...]] = {}
    for fact, number in state.payload.shard_of().items():
        if fact not in state.closed:
            facts[number] = (*facts.get(number, ()), fact)
    shards = {number: state.payload.shards[number] for number in sorted(facts)}
    return {n: LowRankMemory(facts[n], *shard.factors()) for n, shard in shards.items()}


def require_adapters(settings: WiseSettings) -> None:
    """Raise EditorError if no engine can hold the shards as adapters."""
    if settings.memory != "low-rank":
        raise EditorError(
            f"the shards of this store have memory={settings.memory}, and no engine holds such "
            "a change of weights as an adapter",
            "make a store whose shards are adapters: `editcli init MODEL --scope sentence "
            "--set memory=low-rank`",
        )
    if settings.merge_every > 1:
        raise EditorError(
            f"the shards of this store are merged by {settings.merge_every} (merge_every), and "
            "adapters are not",
            "make a store with `--set merge_every=0`",
        )


def elsewhere(base: Base, router: Router, state: EditState) -> Elsewhere:
    """How an engine that holds the shards as adapters answers: with the adapter of the shard that
    ``router`` decides on."""
    shard_of = state.payload.shard_of()

    def dispatch(prompts: Sequence[Prompt]) -> list[Dispatch]:
        with base.probing():
            decisions = decided(router, encode_prompts(base.tokenizer, prompts))
        return [
            Dispatch(decision, adapter=shard_name(decision.memory) if decision.opened else None)
            for decision in decisions
        ]

    current = sorted({shard_of[fact.id] for fact in state.in_force()})
    return Elsewhere(dispatch, tuple(map(shard_name, current)))
