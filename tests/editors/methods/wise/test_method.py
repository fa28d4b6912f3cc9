"""WISE as a method: what applying does to the facts in force, its schedule, and its thresholds."""

from __future__ import annotations

from collections.abc import Callable
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
    Remembering,
    edit,
    no_edits,
)

from editors import Closed, EditorError, Fact, PromptTooLong
from editors.errors import StateMismatch
from editors.inference.attach import attached
from editors.inference.generation import answers
from editors.methods.base import Limits, NoMemo
from editors.methods.edit_state import EditState
from editors.methods.training import suffix_replay as suffix
from editors.methods.wise import method as wise
from editors.methods.wise.method import settings_from
from editors.methods.wise.shards import Mask
from editors.model.tokenization import encode_prompt
from editors.scope.base import ActivationRouter, Decision

Wises = Callable[..., Any]
ORDERED = {**PAPER, "prefixes": 0, "max_steps": 2, "merge_every": 2}
NINE = [
    Fact(f"the {asked} of {subject} is", "Oslo", subject=subject)
    for asked in ("city", "sea", "leader")
    for subject in ("France", "Japan", "Peru")
]


def say(method: Any, state: EditState, facts: Any) -> list[str]:
    """The answers to the facts' prompts; one that does not stop ends in an ellipsis."""
    with method.attach(state):
        said = answers(method.base, [fact.prompt for fact in facts], 5)
    return [answer.text if answer.stopped else f"{answer.text} ..." for answer in said]


# --- facts in force ---------------------------------------------------------------------------


def test_every_applied_fact_is_answered_and_stops(tiny_wise: Wises) -> None:
    method = tiny_wise("llama")
    done = edit(method, FACTS)
    assert done.applied == tuple(fact.id for fact in FACTS)
    assert (done.unchanged, done.failed, done.left) == ((), (), ())
    assert say(method, done.state, FACTS) == [fact.target for fact in FACTS]


def test_applying_twice_changes_nothing(tiny_wise: Wises) -> None:
    for settings in (None, PAPER):
        method = tiny_wise("llama", settings)
        once, memo = edit(method, FACTS), Remembering()
        twice = edit(method, FACTS, once.state, memo)
        assert twice.state.to_blobs() == once.state.to_blobs()
        assert twice.unchanged == once.applied
        assert (twice.applied, twice.iterations, memo.kept) == ((), 0, {})


def test_a_fact_given_twice_is_applied_once(tiny_wise: Wises) -> None:
    method = tiny_wise("llama")
    done = edit(method, [FRANCE, FRANCE, JAPAN])
    assert done.applied == (FRANCE.id, JAPAN.id)
    assert done.state.to_blobs() == edit(method, [FRANCE, JAPAN]).state.to_blobs()


def test_a_new_answer_to_an_edited_prompt_closes_the_old_one(tiny_wise: Wises) -> None:
    method = tiny_wise("llama")
    before = edit(method, [FRANCE, JAPAN]).state
    done = edit(method, [FRANCE_AGAIN], before)
    assert done.applied == (FRANCE_AGAIN.id,)
    assert done.superseded == {FRANCE.id: FRANCE_AGAIN.id}
    assert done.state.closed == {FRANCE.id: Closed("superseded", FRANCE_AGAIN.id)}
    assert done.state.in_force() == [JAPAN, FRANCE_AGAIN]
    assert say(method, done.state, [FRANCE, JAPAN]) == [FRANCE_AGAIN.target, JAPAN.target]


def test_a_fact_may_be_superseded_in_the_batch_that_brings_it(tiny_wise: Wises) -> None:
    method = tiny_wise("llama")
    done = edit(method, [FRANCE, JAPAN, FRANCE_AGAIN])
    assert done.applied == (JAPAN.id, FRANCE_AGAIN.id)
    assert done.state.in_force() == [JAPAN, FRANCE_AGAIN]
    assert say(method, done.state, [FRANCE, JAPAN]) == [FRANCE_AGAIN.target, JAPAN.target]


def test_an_old_answer_may_come_back(tiny_wise: Wises) -> None:
    method = tiny_wise("llama")
    state = edit(method, [FRANCE_AGAIN], edit(method, [FRANCE, JAPAN]).state).state
    done = edit(method, [FRANCE], state)
    assert done.superseded == {FRANCE_AGAIN.id: FRANCE.id}
    assert done.state.in_force() == [JAPAN, FRANCE]
    assert say(method, done.state, [FRANCE, JAPAN]) == [FRANCE.target, JAPAN.target]


def test_an_answer_may_come_back_in_the_batch_that_supersedes_it(tiny_wise: Wises) -> None:
    method = tiny_wise("llama")
    done = edit(method, [FRANCE, FRANCE_AGAIN, FRANCE])
    assert (done.applied, done.superseded) == ((FRANCE.id,), {FRANCE_AGAIN.id: FRANCE.id})
    assert done.state.in_force() == [FRANCE]
    assert say(method, done.state, [FRANCE]) == [FRANCE.target]


# --- memo, refusals, stopping -----------------------------------------------------------------


@pytest.mark.parametrize("settings", [None, PAPER], ids=["robust", "paper"])
def test_a_remembered_shard_is_the_trained_one(tiny_wise: Wises, settings: Any) -> None:
    memo = Remembering()
    trained = edit(tiny_wise("llama", settings), FACTS, memo=memo)
    assert memo.hits == 0
    assert memo.kept
    recalled = edit(tiny_wise("llama", settings), FACTS, memo=memo)
    assert memo.hits == len(memo.kept)
    assert recalled.state.to_blobs() == trained.state.to_blobs()
    assert (recalled.applied, recalled.failed) == (trained.applied, trained.failed)
    assert recalled.iterations == trained.iterations


def test_another_seed_setting_or_text_is_another_shard(tiny_wise: Wises) -> None:
    memo = Remembering()
    edit(tiny_wise("llama", PAPER), [FRANCE], memo=memo)
    edit(tiny_wise("llama", PAPER, 1), [FRANCE], memo=memo)
    edit(tiny_wise("llama", {**PAPER, "max_steps": 11}), [FRANCE], memo=memo)
    edit(tiny_wise("llama", PAPER), [Fact(FRANCE.prompt, "Lima", id=FRANCE.id)], memo=memo)
    edit(tiny_wise("gptj", PAPER), [FRANCE], memo=memo)
    assert memo.hits == 0


def test_one_fact_that_cannot_be_encoded_stops_all_before_training(tiny_wise: Wises) -> None:
    method, memo = tiny_wise("llama"), Remembering()
    long = Fact("the sea " * 70 + "is", "blue")
    with pytest.raises(PromptTooLong, match="the model takes 128"):
        edit(method, [FRANCE, long], memo=memo)
    with pytest.raises(PromptTooLong, match="the model takes 128"):
        method.prepare(no_edits(method), [FRANCE, long], memo=memo, mine=lambda _: True)
    assert memo.kept == {}


def test_a_run_that_is_told_to_stop_keeps_what_it_has(tiny_wise: Wises) -> None:
    method, seen = tiny_wise("llama", PAPER), []

    def until_two(progress: Any) -> bool:
        seen.append((progress.done, progress.total))
        return progress.done < 2

    start = no_edits(method)
    done = method.apply(start, FACTS, memo=NoMemo(), on_progress=until_two)
    assert seen == [(2, 4)]
    assert done.applied == tuple(fact.id for fact in FACTS[:2])
    assert done.left == tuple(fact.id for fact in FACTS[2:])
    assert done.state.to_blobs() == edit(method, FACTS[:2]).state.to_blobs()
    assert edit(method, FACTS, done.state).applied == done.left


def test_at_most_so_many_at_once_is_one_call_after_the_other(tiny_wise: Wises) -> None:
    method, steps = tiny_wise("llama"), []
    told = method.apply(
        no_edits(method),
        FACTS,
        memo=NoMemo(),
        on_progress=lambda progress: steps.append(progress.done) is None,
        limits=Limits(at_once=2),
    )
    assert steps == [2, 4]
    apart = edit(method, FACTS[2:], edit(method, FACTS[:2]).state).state.to_blobs()
    found = told.state.to_blobs()
    assert found.keys() == apart.keys()
    # Keys are looked at in other company, which moves their last bits.
    assert all(found[name] == apart[name] for name in found if not name.startswith("keys-"))


def test_one_more_fact_is_trained_beside_few_of_those_that_its_shard_holds(
    tiny_wise: Wises, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those most like it are trained again, some more are looked at, and the shard keeps all."""
    monkeypatch.setattr(wise, "REHEARSED", 2)
    monkeypatch.setattr(wise, "WATCHED", 2)
    method, asked = tiny_wise("llama"), []
    train = wise.jointly

    def counted(base: Any, facts: Any, taught: int, *arguments: Any) -> Any:
        asked.append((taught, len(facts)))
        return train(base, facts, taught, *arguments)

    monkeypatch.setattr(wise, "jointly", counted)
    state = no_edits(method)
    for fact in NINE:
        state = edit(method, [fact], state).state
    assert asked == [(1, 1), (2, 2), (3, 3), (3, 4), *[(3, 5)] * 5]
    assert len(state.shards) == 1
    assert set(state.shards[0].facts) == {fact.id for fact in NINE}
    keys = {key: seen.keys[0] for key, seen in state.seen.items()}
    *_, last = state.shards[0].groups
    likeness = {key: float(keys[key] @ keys[last[0]]) for key in keys if key != last[0]}
    assert sorted(likeness, key=lambda key: -likeness[key])[:2] == list(last[1:])


@pytest.mark.parametrize("layer", [1, 0])
def test_rivals_may_be_looked_at_in_the_forward_that_records(
    tiny_base: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, layer: int
) -> None:
    """As on an accelerator: the same edit in fewer forwards, where keys lie below its block."""
    monkeypatch.setattr(wise, "REHEARSED", 2)
    forwards: list[int] = []
    method = wise.Wise(replace(tiny_base("llama"), layer=layer), FAST, seed=0)
    before = edit(method, NINE[:5]).state
    first = method.base.model.model.layers[0]
    counting = first.register_forward_pre_hook(lambda *_: forwards.append(1))

    apart = edit(method, [NINE[5]], before).state
    alone = len(forwards)
    monkeypatch.setitem(suffix.SHARED, "cpu", 10**6)
    shared = edit(method, [NINE[5]], before).state
    counting.remove()
    if layer:
        assert len(forwards) - alone < alone - 1  # all that is recorded, and the rivals, in one
    assert len(apart.seen[NINE[5].id].rivals)
    for fact, seen in apart.seen.items():
        torch.testing.assert_close(shared.seen[fact].keys, seen.keys)
        torch.testing.assert_close(shared.seen[fact].rivals, seen.rivals)
    (kept,), (found,) = apart.shards, shared.shards
    torch.testing.assert_close(found.shard.values, kept.shard.values, atol=1e-5, rtol=0)


def test_a_run_goes_on_though_a_superseded_line_has_left_its_file(tiny_wise: Wises) -> None:
    method, memo = tiny_wise("llama"), Remembering()
    edit(method, [FRANCE, FRANCE_AGAIN, JAPAN], memo=memo)
    done = edit(method, [FRANCE_AGAIN, JAPAN], memo=memo)
    assert memo.hits == 1
    assert done.state.to_blobs() == edit(method, [FRANCE_AGAIN, JAPAN]).state.to_blobs()


def test_a_shard_takes_as_many_facts_as_its_projection_has_room_for(
    tiny_wise: Wises, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wise, "FEWEST", 1)
    method = tiny_wise("llama", {**FAST, "max_steps": 1})
    entries = method.base.projection.out_features * method.base.projection.in_features
    for room in (1, 4, 9):
        monkeypatch.setattr(wise, "ENTRIES_A_FACT", entries // room)
        assert len(edit(method, NINE[:8]).state.shards) == -(-8 // room)


def test_edits_of_another_base_are_refused(tiny_wise: Wises) -> None:
    state = edit(tiny_wise("llama", PAPER), [FRANCE]).state
    other = tiny_wise("mistral", PAPER)
    with pytest.raises(StateMismatch, match="this base is"):
        edit(other, [JAPAN], state)
    with pytest.raises(StateMismatch, match="these edits were made on base"):
        other.attach(state)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"shard_sise": 3}, r"no setting 'shard_sise' \(did you mean 'shard_size'\?\)"),
        ({"shard_size": "3"}, "'shard_size' takes int, not '3'"),
        ({"shard_size": 2.5}, "'shard_size' takes int, not 2.5"),
        ({"mask_ratio": True}, "'mask_ratio' takes float, not True"),
        ({"mask_ratio": 0}, "'mask_ratio' takes a number from 0.0001 to 1"),
        ({"profile": "papre"}, "'profile' takes robust, paper, not 'papre'"),
        ({"merge": "slerp"}, "'merge' takes ties, linear"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(values: Any, said: str) -> None:
    with pytest.raises(EditorError, match=said):
        settings_from(values)


def test_the_paper_profile_is_the_paper_s(tiny_wise: Wises) -> None:
    paper = settings_from({"profile": "paper"})
    assert (paper.alpha, paper.beta, paper.gamma) == (5, 20, 10)
    assert (paper.learning_rate, paper.mask_ratio, paper.act_ratio) == (1, 0.2, 1)
    assert (paper.router, paper.training, paper.merge, paper.merge_every) == (
        "activation",
        "ordered",
        "ties",
        2,
    )
    assert settings_from({"profile": "paper", "beta": 12}).beta == 12.0


# --- the schedule (properties 5 and 11) -------------------------------------------------------

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
    drawn: list[int] = []
    merged: list[Any] = []
    plain_mask, plain_merge = wise.Mask, wise.merge

    def drawing(shape: Any, ratio: float, seed: int) -> Mask:
        drawn.append(seed)
        return plain_mask(shape, ratio, seed)

    def merging(name: str, deltas: Any, density: float) -> torch.Tensor:
        merged.append(list(deltas))
        return plain_merge(name, deltas, density)

    monkeypatch.setattr(wise, "Mask", drawing)
    monkeypatch.setattr(wise, "merge", merging)
    method = tiny_wise("llama", ORDERED)
    base, state = method.base, no_edits(method)
    masks: list[torch.Tensor] = []
    for n, draws, fills, sizes, memories in SCHEDULE:
        masks_before, full_before = len(drawn), sum(len(s.facts) == 2 for s in state.shards)
        state = edit(method, [NINE[n - 1]], state).state
        assert len(drawn) - masks_before == draws, n
        assert sum(len(s.facts) == 2 for s in state.shards) - full_before == fills, n
        assert tuple(len(s.facts) for s in state.shards) == sizes, n
        if draws:
            masks.append(state.shards[-1].shard.mask.entries())
        assert all(
            torch.equal(record.shard.mask.entries(), mask)
            for record, mask in zip(state.shards, masks, strict=True)
        ), "a shard keeps its mask"
        deltas = [record.shard.delta() for record in state.shards]
        blobs = state.to_blobs()
        tensors = {k: v.clone() for k, v in base.model.state_dict().items()}
        for _ in range(2):  # attaching again merges the same again
            merged.clear()
            with method.attach(state):
                base.model(input_ids=torch.tensor([[1, 5, 9]]))
                answers(base, [NINE[0].prompt], 3)
            made = [tuple(number(d, deltas) for d in part) for part in merged]
            assert made == [part for part in memories if len(part) > 1], n
        assert state.to_blobs() == blobs, "reading, scoring and generating change nothing"
        after = base.model.state_dict()
        assert all(torch.equal(after[k], v) for k, v in tensors.items())
    assert len(set(drawn)) == len(drawn) == 5


def number(delta: torch.Tensor, deltas: list[torch.Tensor]) -> int:
    return next(i for i, other in enumerate(deltas) if torch.equal(delta, other))


def test_in_order_one_at_a_time_is_all_at_once(tiny_wise: Wises) -> None:
    method = tiny_wise("llama", ORDERED)
    at_once, state = edit(method, NINE[:5]).state, no_edits(method)
    for fact in NINE[:5]:
        state = edit(method, [fact], state).state
    for one, other in zip(state.shards, at_once.shards, strict=True):
        assert one.facts == other.facts
        assert torch.equal(one.shard.delta(), other.shard.delta())
        assert one.shard.threshold == other.shard.threshold


def test_the_same_seed_draws_the_same_masks_and_another_draws_others(tiny_wise: Wises) -> None:
    def masks(seed: int) -> list[torch.Tensor]:
        state = edit(tiny_wise("llama", ORDERED, seed), NINE[:4]).state
        return [record.shard.mask.entries() for record in state.shards]

    one, again, other = masks(0), masks(0), masks(1)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a in one for b in other)
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one[0], Mask((32, 48), 0.2, 0).entries())


# --- thresholds (properties 9 and 14) ---------------------------------------------------------


def test_a_shard_s_threshold_never_rises_and_survives_saving(tiny_wise: Wises) -> None:
    method = tiny_wise("llama", {**ORDERED, "shard_size": 4})
    state, seen = no_edits(method), []
    for fact in FACTS:
        state = edit(method, [fact], state).state
        assert len(state.shards) == 1
        seen.append(state.shards[0].shard.threshold)
        loaded = EditState.from_blobs(state.to_blobs())
        assert loaded.shards[0].shard.threshold == seen[-1]
    assert seen == sorted(seen, reverse=True)
    assert 0 < seen[-1] < float("inf")


def thresholds(method: Any, state: EditState) -> set[float]:
    """Those of the memories that some prompt was measured against."""
    found = set()
    for fact in NINE:
        with method.attach(state) as here:
            answers(method.base, [fact.prompt], 1)
            found |= {decision.threshold for decision in here.decisions}
    return found


def test_a_merged_memory_has_the_smallest_threshold_of_its_shards(tiny_wise: Wises) -> None:
    merging = tiny_wise("llama", ORDERED)
    state = edit(merging, NINE[:4]).state
    each = [record.shard.threshold for record in state.shards]
    assert len(set(each)) == 2
    assert thresholds(merging, state) == {min(each)}
    retrieving = tiny_wise("llama", {**ORDERED, "merge_every": 0})
    assert thresholds(retrieving, state) <= set(each)


def test_with_one_memory_merging_and_retrieving_agree(tiny_wise: Wises) -> None:
    merging, retrieving = (tiny_wise("llama", {**ORDERED, "merge_every": n}) for n in (2, 0))
    state = edit(merging, NINE[:2]).state
    ids = torch.tensor([[1, *range(8, 14)], [1, *range(40, 46)]])
    found = []
    for method in (merging, retrieving):
        with method.attach(state) as here, torch.no_grad():
            found.append((method.base.model(input_ids=ids).logits, here.decisions))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


class Oracle:
    """Sends each fact's own prompt to the memory that holds it."""

    def __init__(self, shards: dict[tuple[int, ...], int]) -> None:
        self.shards = shards

    def decide(self, prompts: Any) -> list[Decision]:
        return [Decision(self.shards[prompt]) for prompt in prompts]


def test_top_1_is_never_better_than_an_oracle(tiny_wise: Wises) -> None:
    method = tiny_wise("llama", {"shard_size": 1})
    state = edit(method, FACTS).state
    memories = [replace(record.shard, threshold=0.0) for record in state.shards]
    shard_of = state.shard_of()
    encoded = {encode_prompt(method.base.tokenizer, f.prompt): shard_of[f.id] for f in FACTS}

    def right(router: Any) -> list[bool]:
        with attached(method.base, memories, router):
            said = answers(method.base, [fact.prompt for fact in FACTS], 5)
        return [answer.text == fact.target for answer, fact in zip(said, FACTS, strict=True)]

    assert right(Oracle(encoded)) == [True] * len(FACTS)
    # The oracle's four right answers are the most there are, so this is all of the claim.
    assert right(Oracle(encoded)) == [True] * len(FACTS)
    assert len(right(ActivationRouter(method.base, memories))) == len(FACTS)


@pytest.mark.parametrize("family", ["llama", "gptj", "gpt2", "opt"])
def test_a_single_edit_of_the_paper_opens_its_own_memory(tiny_wise: Wises, family: str) -> None:
    for fact in (FRANCE, JAPAN, PERU):
        method = tiny_wise(family, PAPER)
        state = edit(method, [fact]).state
        with method.attach(state) as here:
            answers(method.base, [fact.prompt], 1)
            assert [decision.opened for decision in here.decisions] == [True]


# --- closing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [FRANCE, JAPAN, FACTS[-1]])
def test_a_closed_fact_leaves_its_prompt_to_the_base_and_moves_no_other(
    tiny_wise: Wises, closed: Fact
) -> None:
    method = tiny_wise("llama")
    before = edit(method, FACTS).state
    after = EditState.from_blobs(before.closing({closed.id: Closed("undone")}).to_blobs())
    others = [fact for fact in FACTS if fact != closed]
    with method.attach(no_edits(method)):
        untouched = answers(method.base, [closed.prompt], 5)
    with method.attach(after) as here:
        assert answers(method.base, [closed.prompt], 5) == untouched
        assert not here.decisions[0].opened
    assert say(method, after, others) == [fact.target for fact in others]


def test_edits_go_on_after_a_fact_was_closed(tiny_wise: Wises) -> None:
    method = tiny_wise("llama")
    closed = edit(method, [FRANCE, JAPAN]).state.closing({FRANCE.id: Closed("undone")})
    state = edit(method, [PERU], closed).state
    assert state.in_force() == [JAPAN, PERU]
    assert say(method, state, [JAPAN, PERU]) == [JAPAN.target, PERU.target]
    again = edit(method, [FRANCE], state)
    assert again.applied == (FRANCE.id,)
    asked = [FRANCE, JAPAN, PERU]
    assert say(method, again.state, asked) == [fact.target for fact in asked]


def test_a_router_that_could_never_open_is_refused() -> None:
    """Only training in order measures the activations that its thresholds are made of."""
    with pytest.raises(EditorError, match="router=activation needs training=ordered") as caught:
        settings_from({"router": "activation"})
    assert "`--set training=ordered`" in caught.value.hint
    assert settings_from({"router": "activation", "training": "ordered"}).router == "activation"
