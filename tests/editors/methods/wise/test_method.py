"""WISE as a method: which facts a shard is trained on, its schedule, and its thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_edits import (
    FACTS,
    FAST,
    FRANCE,
    FRANCE_AGAIN,
    JAPAN,
    PAPER,
    PERU,
    CountingCache,
    edit,
    no_edits,
    reopened,
)
from tiny_models import quick_first

from editors import METHODS, Fact
from editors.inference.decisions import Decision, Proposal
from editors.inference.edited_model import attached
from editors.inference.generation import answers
from editors.methods.edit_state import EditState
from editors.methods.training import suffix_replay
from editors.methods.wise import method as wise
from editors.methods.wise.activation import ActivationRouter
from editors.methods.wise.memory_layer import SideMemoryLinear
from editors.methods.wise.shards import Mask, Shard
from editors.model.tokenization import Ids, encode_prompt

Wises = Callable[..., Any]
SEQUENTIAL = {**PAPER, "prefixes": 0, "max_steps": 2, "merge_every": 2}
NINE = [
    Fact(f"the {what} of {subject} is", "Oslo", subject=subject)
    for what in ("city", "sea", "leader")
    for subject in ("France", "Japan", "Peru")
]


def shards_of(state: EditState) -> tuple[Shard, ...]:
    shards: tuple[Shard, ...] = state.payload.shards
    return shards


# --- what a shard is trained on ---------------------------------------------------------------


def test_another_seed_setting_text_or_base_is_another_shard(tiny_wise: Wises) -> None:
    cache = CountingCache()
    edit(tiny_wise("llama", PAPER), [FRANCE], cache=cache)
    edit(tiny_wise("llama", PAPER, 1), [FRANCE], cache=cache)
    edit(tiny_wise("llama", {**PAPER, "max_steps": 11}), [FRANCE], cache=cache)
    edit(tiny_wise("llama", PAPER), [Fact(FRANCE.prompt, "Lima", id=FRANCE.id)], cache=cache)
    edit(tiny_wise("gptj", PAPER), [FRANCE], cache=cache)
    assert (cache.hits, len(cache.entries)) == (0, 5)


def test_other_start_values_or_another_trainer_are_trained_anew(
    tiny_wise: Wises, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted training goes on only from what the same training would have made."""
    method, cache = tiny_wise("llama", {**PAPER, "shard_size": 4}), CountingCache()
    before = edit(method, [FRANCE]).state
    [shard] = shards_of(before)
    moved = replace(shard, values=shard.values + 0.01)
    other = replace(before, payload=replace(before.payload, shards=(moved,)))
    for state in (before, other):
        edit(method, [JAPAN], state, cache)
    assert (cache.hits, len(cache.entries)) == (0, 2)
    edit(method, [JAPAN], other, cache)
    assert cache.hits == 1
    monkeypatch.setattr(wise, "TRAINER", wise.TRAINER + 1)
    edit(method, [JAPAN], other, cache)
    assert (cache.hits, len(cache.entries)) == (1, 3)


def test_one_more_fact_is_trained_beside_few_of_those_that_its_shard_holds(
    tiny_wise: Wises, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those most like it are trained again, some more are looked at, and the shard keeps all."""
    monkeypatch.setattr(wise, "REHEARSAL_FACTS", 2)
    monkeypatch.setattr(wise, "CHECKED_PER_REHEARSED", 2)
    method, trained = tiny_wise("llama"), []
    train = wise.train_jointly

    def counted(base: Any, facts: Any, taught: int, *arguments: Any, **options: Any) -> Any:
        trained.append((taught, len(facts)))
        return train(base, facts, taught, *arguments, **options)

    monkeypatch.setattr(wise, "train_jointly", counted)
    state = no_edits(method)
    for fact in NINE:
        state = edit(method, [fact], state).state
    assert trained == [(1, 1), (2, 2), (3, 3), (3, 4), *[(3, 5)] * 5]
    [shard] = shards_of(state)
    assert set(shard.facts) == {fact.id for fact in NINE}
    keys = {fact: of_fact["keys"][0] for fact, of_fact in state.payload.scope.keys.items()}
    *_, last = shard.groups
    likeness = {fact: float(keys[fact] @ keys[last[0]]) for fact in keys if fact != last[0]}
    assert sorted(likeness, key=lambda fact: -likeness[fact])[:2] == list(last[1:])


@pytest.mark.parametrize("layer", [1, 0])
def test_hard_negatives_may_be_read_in_the_forward_that_records(
    tiny_base: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, layer: int
) -> None:
    """As on an accelerator: the same edit in fewer forwards, where keys lie below its block."""
    monkeypatch.setattr(wise, "REHEARSAL_FACTS", 2)
    forwards: list[int] = []
    method = METHODS.load("wise").build(replace(tiny_base("llama"), layer=layer), FAST, 0)
    before = edit(method, NINE[:5]).state
    first = method.base.model.model.layers[0]
    counting = first.register_forward_pre_hook(lambda *_: forwards.append(1))

    apart = edit(method, [NINE[5]], before).state
    alone = len(forwards)
    monkeypatch.setitem(suffix_replay.SHARED_TOKENS, "cpu", 10**6)
    shared = edit(method, [NINE[5]], before).state
    counting.remove()
    if layer:
        assert len(forwards) - alone < alone - 1  # all that is recorded, and negatives, in one
    of_apart, of_shared = apart.payload.scope.keys, shared.payload.scope.keys
    assert len(of_apart[NINE[5].id]["negatives"])
    assert of_apart.keys() == of_shared.keys()
    for fact, keys in of_apart.items():
        for name, of_fact in keys.items():
            torch.testing.assert_close(of_shared[fact][name], of_fact)
    [one], [other] = shards_of(apart), shards_of(shared)
    torch.testing.assert_close(other.values, one.values, atol=1e-5, rtol=0)


def test_a_run_goes_on_though_a_superseded_line_has_left_its_file(tiny_wise: Wises) -> None:
    method, cache = tiny_wise("llama"), CountingCache()
    edit(method, [FRANCE, FRANCE_AGAIN, JAPAN], cache=cache)
    done = edit(method, [FRANCE_AGAIN, JAPAN], cache=cache)
    assert cache.hits == 1
    fresh = edit(method, [FRANCE_AGAIN, JAPAN])
    assert method.save(done.state) == method.save(fresh.state)


def test_a_shard_takes_as_many_facts_as_its_projection_has_room_for(
    tiny_wise: Wises, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wise, "MIN_SHARD", 1)
    for room in (1, 4, 9):
        method = tiny_wise("llama", {**FAST, "max_steps": 1})
        entries = method.base.projection.out_features * method.base.projection.in_features
        monkeypatch.setattr(wise, "ENTRIES_A_FACT", entries // room)
        assert len(shards_of(edit(method, NINE[:8]).state)) == -(-8 // room)


def test_the_room_of_a_shard_is_bounded_and_a_setting_overrides_it(
    tiny_wise: Wises, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = tiny_wise("llama")
    assert method.group_size(no_edits(method)) == wise.MIN_SHARD, "the projection is tiny"
    monkeypatch.setattr(wise, "ENTRIES_A_FACT", 1)
    method = tiny_wise("llama")
    assert method.group_size(no_edits(method)) == wise.MAX_SHARD
    method = tiny_wise("llama", {**FAST, "shard_size": 3})
    assert method.group_size(no_edits(method)) == 3
    assert method.group_size(edit(method, FACTS).state) == 2


# --- the schedule -----------------------------------------------------------------------------

# shard_size=2, merge_every=2. After fact n: was a mask drawn, was a shard filled, how many facts
# each shard has, and of which shards each memory is made when the edits are attached.
SCHEDULE = [
    (1, True, False, (1,), ((0,),)),
    (2, False, True, (2,), ((0,),)),
    (3, True, False, (2, 1), ((0, 1),)),
    (4, False, True, (2, 2), ((0, 1),)),
    (5, True, False, (2, 2, 1), ((0, 1), (2,))),
    (6, False, True, (2, 2, 2), ((0, 1), (2,))),
    (7, True, False, (2, 2, 2, 1), ((0, 1), (2, 3))),
    (8, False, True, (2, 2, 2, 2), ((0, 1), (2, 3))),
    (9, True, False, (2, 2, 2, 2, 1), ((0, 1), (2, 3), (4,))),
]


def test_masks_shards_and_merges_come_as_the_table_says(
    tiny_wise: Wises, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: set[int] = set()
    merged: list[Any] = []
    plain_entries, plain_merge = Mask.entries, wise.MERGES["ties"]

    def drawing(mask: Mask) -> torch.Tensor:
        drawn.add(mask.seed)
        return plain_entries(mask)

    def merging(deltas: Any, density: float) -> torch.Tensor:
        merged.append(list(deltas))
        return plain_merge(deltas, density)

    monkeypatch.setattr(Mask, "entries", drawing)
    monkeypatch.setitem(wise.MERGES, "ties", merging)
    method = tiny_wise("llama", SEQUENTIAL)
    base, state = method.base, no_edits(method)
    masks: list[torch.Tensor] = []
    for n, draws, fills, sizes, memories in SCHEDULE:
        masks_before = len(drawn)
        full_before = sum(len(shard.facts) == 2 for shard in shards_of(state))
        state = edit(method, [NINE[n - 1]], state).state
        shards = shards_of(state)
        assert len(drawn) - masks_before == draws, n
        assert sum(len(shard.facts) == 2 for shard in shards) - full_before == fills, n
        assert tuple(len(shard.facts) for shard in shards) == sizes, n
        if draws:
            masks.append(shards[-1].support.entries())
        assert all(
            torch.equal(shard.support.entries(), mask)
            for shard, mask in zip(shards, masks, strict=True)
        ), "a shard keeps its mask"
        deltas = [shard.delta() for shard in shards]
        blobs = method.save(state)
        tensors = {k: v.clone() for k, v in base.model.state_dict().items()}
        for again in (False, True):
            merged.clear()
            with method.attach(state) as model:
                base.model(input_ids=torch.tensor([[1, 5, 9]]))
                answers(model, [NINE[0].prompt], 3)
            made = [tuple(number(d, deltas) for d in part) for part in merged]
            wanted = [] if again else [part for part in memories if len(part) > 1]
            assert made == wanted, "merged once for a state, however often it is attached"
        assert method.save(state) == blobs, "reading, scoring and generating change nothing"
        after = base.model.state_dict()
        assert all(torch.equal(after[k], v) for k, v in tensors.items())
    assert len(drawn) == 5


def number(delta: torch.Tensor, deltas: list[torch.Tensor]) -> int:
    return next(i for i, other in enumerate(deltas) if torch.equal(delta, other))


def test_sequentially_one_call_for_each_fact_is_one_call_for_all(tiny_wise: Wises) -> None:
    method = tiny_wise("llama", SEQUENTIAL)
    at_once, state = edit(method, NINE[:5]).state, no_edits(method)
    for fact in NINE[:5]:
        state = edit(method, [fact], state).state
    for one, other in zip(shards_of(state), shards_of(at_once), strict=True):
        assert one.facts == other.facts
        assert torch.equal(one.delta(), other.delta())
        assert one.threshold == other.threshold


def test_the_same_seed_draws_the_same_masks_and_another_draws_others(tiny_wise: Wises) -> None:
    def masks(seed: int) -> list[torch.Tensor]:
        state = edit(tiny_wise("llama", SEQUENTIAL, seed), NINE[:4]).state
        return [shard.support.entries() for shard in shards_of(state)]

    one, again, other = masks(0), masks(0), masks(1)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a in one for b in other)
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one[0], Mask((32, 48), 0.2, 0).entries())


# --- thresholds -------------------------------------------------------------------------------


def test_a_shard_s_threshold_never_rises_and_survives_saving(tiny_wise: Wises) -> None:
    method = tiny_wise("llama", {**SEQUENTIAL, "shard_size": 4})
    state, measured = no_edits(method), []
    for fact in FACTS:
        state = edit(method, [fact], state).state
        [shard] = shards_of(state)
        measured.append(shard.threshold)
        assert shards_of(reopened(method, state))[0].threshold == measured[-1]
    assert measured == sorted(measured, reverse=True)
    assert 0 < measured[-1] < float("inf")


def thresholds(method: Any, state: EditState) -> set[float]:
    """Those of the memories that some prompt was measured against."""
    with method.attach(state) as model:
        given = answers(model, [fact.prompt for fact in NINE], 1)
    return {answer.decision.threshold for answer in given if answer.decision}


def test_a_merged_memory_has_the_smallest_threshold_of_its_shards(tiny_wise: Wises) -> None:
    merging = tiny_wise("llama", SEQUENTIAL)
    state = edit(merging, NINE[:4]).state
    each = [shard.threshold for shard in shards_of(state)]
    assert len(set(each)) == 2
    assert thresholds(merging, state) == {min(each)}
    retrieving = tiny_wise("llama", {**SEQUENTIAL, "merge_every": 0})
    assert thresholds(retrieving, state) <= set(each)


def test_with_one_memory_merging_and_retrieving_agree(tiny_wise: Wises) -> None:
    merging, retrieving = (tiny_wise("llama", {**SEQUENTIAL, "merge_every": n}) for n in (2, 0))
    state = edit(merging, NINE[:2]).state
    ids = torch.tensor([[1, *range(8, 14)], [1, *range(40, 46)]])
    results = []
    for method in (merging, retrieving):
        with method.attach(state) as model, torch.no_grad(), model.noting() as calls:
            logits = method.base.model(input_ids=ids).logits
        results.append((logits, model.decisions(calls)))
    (one, decided), (other, decided_too) = results
    assert torch.equal(one, other)
    assert decided == decided_too
    assert decided is not None


class Oracle:
    """Sends each fact's own prompt to the memory that holds it."""

    reads: tuple[int, ...] = ()

    def __init__(self, memory_of: dict[Ids, int]) -> None:
        self.memory_of = memory_of

    def propose(self, prompts: Sequence[Ids]) -> Proposal:
        return Proposal(prompts, [Decision(self.memory_of[prompt]) for prompt in prompts])

    def decide(self, proposal: Proposal, states: torch.Tensor | None) -> list[Decision]:
        return proposal.decisions


def test_top_1_is_never_better_than_an_oracle(tiny_wise: Wises) -> None:
    method = tiny_wise("llama", {**FAST, "shard_size": 1})
    state = edit(method, FACTS).state
    base, path = method.base, method.base.projection.path
    memories = [replace(shard, threshold=0.0) for shard in shards_of(state)]
    shard_of = state.payload.shard_of()
    memory_of = {encode_prompt(base.tokenizer, f.prompt): shard_of[f.id] for f in FACTS}

    def right(router: Any) -> list[bool]:
        layer = SideMemoryLinear(base.model.get_submodule(path), memories)
        with attached(base, {path: layer}, router) as model:
            given = answers(model, [fact.prompt for fact in FACTS], 5)
        return [answer.text == fact.target for answer, fact in zip(given, FACTS, strict=True)]

    assert right(Oracle(memory_of)) == [True] * len(FACTS)
    # With thresholds that all pass, top-1 opens the loudest memory, whichever fact it holds.
    loudest = ActivationRouter(base, memories)
    memory = [loudest.propose([prompt]).decisions[0].memory for prompt in memory_of]
    own = [chosen == holding for chosen, holding in zip(memory, memory_of.values(), strict=True)]
    assert [ok for ok, is_own in zip(right(loudest), own, strict=True) if is_own] == [True] * sum(
        own
    )


@pytest.mark.parametrize("family", quick_first(["llama", "gptj", "opt"]))
def test_a_single_edit_of_the_paper_opens_its_own_memory(tiny_wise: Wises, family: str) -> None:
    for fact in (FRANCE, JAPAN, PERU):
        method = tiny_wise(family, PAPER)
        state = edit(method, [fact]).state
        with method.attach(state) as model:
            [answer] = answers(model, [fact.prompt], 1)
        assert answer.decision is not None
        assert answer.decision.opened
