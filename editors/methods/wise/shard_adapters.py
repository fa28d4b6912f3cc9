"""Shards of low rank outside of editcli: as adapters of PEFT, which other engines can hold."""

from __future__ import annotations

from collections.abc import Sequence

from editors.errors import EditorError
from editors.inference.decisions import Router, decided
from editors.methods.edit_state import EditState
from editors.methods.elsewhere import Dispatch, Elsewhere
from editors.methods.low_rank import MAKE_A_STORE, LowRankMemory, adapter_name
from editors.methods.wise.settings import WiseSettings
from editors.model.base_model import Base
from editors.model.tokenization import Prompt, encode_prompts


def require_adapters(settings: WiseSettings) -> None:
    """Raise EditorError if the shards cannot be adapters."""
    if settings.memory != "low-rank":
        raise EditorError(
            f"the shards of this store have memory={settings.memory}, and adapters of PEFT are of "
            "low rank",
            MAKE_A_STORE,
        )
    if settings.merge_every > 1:
        raise EditorError(
            f"the shards of this store are merged by {settings.merge_every} (merge_every="
            f"{settings.merge_every}), and are then not of low rank",
            f"{MAKE_A_STORE}, with merge_every=0",
        )


def low_rank_memories(settings: WiseSettings, state: EditState) -> dict[int, LowRankMemory]:
    """By number, the shards that answer a fact in force, as memories of low rank. Raises
    EditorError if they are not of low rank."""
    require_adapters(settings)
    shards = state.payload.shards
    return {
        number: LowRankMemory(facts, *shards[number].factors())
        for number, facts in _answering(state).items()
    }


def _answering(state: EditState) -> dict[int, tuple[str, ...]]:
    """By number, the shards that answer a fact in force, with these facts (ids)."""
    facts: dict[int, tuple[str, ...]] = {}
    for fact, number in state.payload.shard_of().items():
        if fact not in state.closed:
            facts[number] = (*facts.get(number, ()), fact)
    return dict(sorted(facts.items()))


def elsewhere(base: Base, router: Router, state: EditState) -> Elsewhere:
    """How an engine that holds the shards as adapters answers: with the adapter of the shard that
    ``router`` decides on."""

    def dispatch(prompts: Sequence[Prompt]) -> list[Dispatch]:
        with base.probing():
            decisions = decided(router, encode_prompts(base.tokenizer, prompts))
        return [
            Dispatch(decision, adapter=adapter_name(decision.memory) if decision.opened else None)
            for decision in decisions
        ]

    return Elsewhere(dispatch, tuple(map(adapter_name, _answering(state))))
