"""The trainer against a plain loop over the whole model, and the margins by hand."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_edits import FACTS, FAST, edit, no_edits

from editors import EditorError
from editors.inference.generation import answers
from editors.methods.training import suffix_replay as suffix
from editors.methods.training.suffix_replay import Suffix
from editors.methods.wise.method import Wise
from editors.methods.wise.shards import Mask, Shard
from editors.methods.wise.training.joint import (
    JointSettings,
    OrderedSettings,
    Outcome,
    in_order,
    jointly,
    margin_loss,
)
from editors.methods.wise.training.masked_delta import MaskedChange
from editors.model.tokenization import Row, encode_pair, encode_prompt
from editors.scope.base import activation, activations

BaseOf = Callable[..., Any]
# A bias-free gated MLP, a biased one beside its attention, Conv1D; then norms after the MLP, and
# a block that flattens its rows.
FAMILIES = ["llama", "gptj", "gpt2", "gemma2", "opt"]
CALM = [
    "the sea and the mountain",
    "who plays the piano with Bob ?",
    "red green blue one two three",
]


def rows_of(base: Any, beginnings: tuple[str, ...] = ("", "Ann wrote , ")) -> list[list[Row]]:
    """For each fact its bare prompt and one after a beginning."""
    return [
        [
            encode_pair(base.tokenizer, start + fact.prompt, fact.target, stop=True, context=128)
            for start in beginnings
        ]
        for fact in FACTS[:3]
    ]


def calm_rows(base: Any) -> list[Row]:
    encoded = [encode_prompt(base.tokenizer, text) for text in CALM]
    return [Row(ids, len(ids)) for ids in encoded]


def mask_of(base: Any, ratio: float = 0.3) -> Mask:
    return Mask((base.projection.out_features, base.projection.in_features), ratio, 5)


def whole(full_loop: ModuleType, base: Any) -> Any:
    projection = base.projection
    return full_loop.FullModel(base.model, projection.path, stored_transposed=projection.transposed)


def edited(base: Any, mask: Mask, outcome: Outcome) -> torch.Tensor:
    return base.projection.weight(base.model) + Shard((), mask, outcome.values).delta()


def ordered(base: Any, mask: Mask, settings: OrderedSettings, edits: Any) -> Outcome:
    start = torch.zeros(mask.count)
    return in_order(base, edits, calm_rows(base), mask, start, settings)


# --- the plain loop (property 15) -------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_in_order_trains_what_the_whole_model_trains(
    tiny_base: BaseOf, full_loop: ModuleType, family: str
) -> None:
    base, settings = tiny_base(family), OrderedSettings(max_steps=6)
    mask, edits = mask_of(base), rows_of(base)
    found = ordered(base, mask, settings, edits)
    wanted = full_loop.in_order(
        whole(full_loop, base), edits, calm_rows(base), mask.entries(), settings
    )
    torch.testing.assert_close(edited(base, mask, found), wanted.weight, atol=1e-5, rtol=0)
    assert found.threshold == pytest.approx(wanted.threshold, abs=1e-4)
    assert found.iterations == wanted.steps == 18


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_public_loop_trains_the_same_so_that_speed_is_all_that_differs(
    tiny_base: BaseOf, full_loop: ModuleType, family: str
) -> None:
    base, settings = tiny_base(family), OrderedSettings(max_steps=6)
    mask, rows = mask_of(base), rows_of(base)[0]
    found = ordered(base, mask, settings, [rows])
    wanted = full_loop.one_edit(
        whole(full_loop, base), rows, calm_rows(base), mask.entries(), settings
    )
    torch.testing.assert_close(edited(base, mask, found), wanted.weight, atol=1e-5, rtol=0)
    assert found.iterations == wanted.steps == 6


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_in_order_stops_where_the_plain_loop_stops(
    tiny_base: BaseOf, full_loop: ModuleType, family: str
) -> None:
    """Margins that are met early, and a level that is reached before the steps run out."""
    base = tiny_base(family)
    settings = OrderedSettings(
        max_steps=12, learning_rate=0.5, enough=4.0, alpha=30.0, beta=1.0, gamma=0.1
    )
    mask, edits = mask_of(base), rows_of(base)
    found = ordered(base, mask, settings, edits)
    wanted = full_loop.in_order(
        whole(full_loop, base), edits, calm_rows(base), mask.entries(), settings
    )
    assert 0 < wanted.steps < 36
    assert found.iterations == wanted.steps
    torch.testing.assert_close(edited(base, mask, found), wanted.weight, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("rows_at_once", "tokens_at_once"), [(64, 2048), (2, 2048), (64, 20)])
@pytest.mark.parametrize("family", FAMILIES)
def test_jointly_trains_what_the_whole_model_trains(
    tiny_base: BaseOf, full_loop: ModuleType, family: str, rows_at_once: int, tokens_at_once: int
) -> None:
    base = tiny_base(family)
    settings = JointSettings(
        max_steps=12,
        learning_rate=0.25,
        confidence=0.2,
        rows_at_once=rows_at_once,
        tokens_at_once=tokens_at_once,
    )
    mask = mask_of(base)
    facts = rows_of(base)
    rows = [row for of_fact in facts for row in of_fact]
    found = jointly(base, facts, 3, mask, None, settings, seed=4)
    wanted = full_loop.jointly(whole(full_loop, base), rows, mask.entries(), settings, seed=4)
    torch.testing.assert_close(edited(base, mask, found), wanted.weight, atol=1e-5, rtol=0)
    assert found.iterations == wanted.steps


def test_jointly_stops_where_the_plain_loop_stops(tiny_base: BaseOf, full_loop: ModuleType) -> None:
    base = tiny_base("llama")
    settings = JointSettings(max_steps=150, learning_rate=0.5, confidence=0.25)
    mask = mask_of(base, 0.5)
    facts = rows_of(base, ("",))
    rows = [row for of_fact in facts for row in of_fact]
    found = jointly(base, facts, 3, mask, None, settings, seed=0)
    wanted = full_loop.jointly(whole(full_loop, base), rows, mask.entries(), settings, seed=0)
    assert found.iterations == wanted.steps < 150
    assert found.failed == ()
    torch.testing.assert_close(edited(base, mask, found), wanted.weight, atol=1e-5, rtol=0)


# --- the loop's other promises ----------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_training_changes_no_tensor_of_the_base(tiny_base: BaseOf, family: str) -> None:
    """Properties 3 and 4. The shared models are also compared after every test."""
    base = tiny_base(family)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    mask = mask_of(base)
    outcome = ordered(base, mask, OrderedSettings(max_steps=3), rows_of(base))
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in base.model.parameters())
    weight = base.projection.weight(base.model)
    assert torch.equal(edited(base, mask, outcome)[~mask.entries()], weight[~mask.entries()])
    assert outcome.values.abs().min() < outcome.values.abs().max()


def test_the_threshold_is_the_smallest_activation_measured_after_its_own_edit(
    tiny_base: BaseOf,
) -> None:
    """Property 9: after the first edits alone the threshold is known, and it never rises."""
    base, settings = tiny_base("llama"), OrderedSettings(max_steps=4)
    mask, edits = mask_of(base), rows_of(base)
    measured, thresholds = [], []
    for count in range(1, 4):
        outcome = ordered(base, mask, settings, edits[:count])
        last = edits[count - 1][0]
        batches = [base.batch([last])]
        [record] = Suffix.record(base.model, base.architecture, base.layer, batches).records
        delta = edited(base, mask, outcome) - base.projection.weight(base.model)
        measured.append(float(activation(record.inputs[0, : last.prompt_length], delta)))
        thresholds.append(outcome.threshold)
        assert outcome.threshold == pytest.approx(min(measured), rel=1e-5)
    assert thresholds == sorted(thresholds, reverse=True)


def test_going_on_from_earlier_values_is_training_in_one_go(tiny_base: BaseOf) -> None:
    base, settings = tiny_base("gpt2"), OrderedSettings(max_steps=3)
    mask, edits = mask_of(base), rows_of(base)
    at_once = ordered(base, mask, settings, edits)
    first = ordered(base, mask, settings, edits[:2])
    then = in_order(base, edits[2:], calm_rows(base), mask, first.values, settings)
    assert torch.equal(then.values, at_once.values)
    assert first.iterations + then.iterations == at_once.iterations
    assert min(first.threshold, then.threshold) == at_once.threshold


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_in_half_precision_is_trained_and_attached(
    tiny_base: BaseOf, dtype: torch.dtype
) -> None:
    base = tiny_base("llama")
    base = replace(base, model=deepcopy(base.model).to(dtype))
    method = Wise(base, FAST, 0)
    done = edit(method, FACTS[:2])
    assert done.failed == ()
    with method.attach(done.state):
        said = answers(base, [fact.prompt for fact in FACTS[:2]], 5)
    assert [answer.text for answer in said] == [fact.target for fact in FACTS[:2]]


def test_what_cannot_be_learnt_is_named(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    mask, settings = mask_of(base), JointSettings(1, learning_rate=0.25, confidence=0.99)
    outcome = jointly(base, rows_of(base), 3, mask, None, settings, seed=0)
    assert outcome.failed == (0, 1, 2)
    assert ordered(base, mask, OrderedSettings(max_steps=1), rows_of(base)).failed == (0, 1, 2)


def test_an_edit_that_ends_in_no_numbers_is_refused(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    base = replace(base, model=deepcopy(base.model))
    method = Wise(base, FAST, 0)
    start = no_edits(method)
    base.model.lm_head.weight.data[5] = float("nan")  # as after an overflow in half precision
    with pytest.raises(EditorError, match="gave values that are no numbers"):
        edit(method, FACTS[:1], start)


def test_what_a_later_edit_spoils_is_trained_again(tiny_base: BaseOf) -> None:
    """Facts that the values hold from before are kept, whether they are taught again or not."""
    base = tiny_base("llama")
    settings = JointSettings(max_steps=300, learning_rate=0.5, confidence=0.3)
    mask, facts = mask_of(base, 0.2), rows_of(base)
    held = jointly(base, facts[:2], 2, mask, None, settings, seed=0)
    alone = jointly(base, facts[2:], 1, mask, held.values, settings, seed=1)
    beside = jointly(base, [facts[2], *facts[:2]], 1, mask, held.values, settings, seed=1)
    only_looking = replace(settings, max_steps=0)
    assert jointly(base, facts[:2], 2, mask, alone.values, only_looking, seed=1).failed
    assert held.failed == alone.failed == beside.failed == ()
    assert beside.iterations > alone.iterations


def test_what_was_not_sure_before_is_not_trained(tiny_base: BaseOf) -> None:
    """An edit costs what it spoils, and not what an earlier one has failed to learn."""
    base = tiny_base("llama")
    settings = JointSettings(max_steps=300, learning_rate=0.5, confidence=0.3)
    mask, facts = mask_of(base, 0.5), rows_of(base)
    alone = jointly(base, facts[2:], 1, mask, None, settings, seed=1)
    beside = jointly(base, [facts[2], *facts[:2]], 1, mask, None, settings, seed=1)
    assert (alone.failed, beside.failed) == ((), (1, 2))
    assert torch.equal(alone.values, beside.values)
    assert alone.iterations == beside.iterations


@pytest.mark.parametrize("confidence", [0.3, 0.6])
def test_what_is_held_may_be_recorded_in_the_same_forward(
    tiny_base: BaseOf, monkeypatch: pytest.MonkeyPatch, confidence: float
) -> None:
    """As on an accelerator; with a confidence that leaves nothing to look at in the end, too."""
    base = tiny_base("llama")
    settings = JointSettings(300, learning_rate=0.2, confidence=confidence, rows_at_once=2)
    mask, facts = mask_of(base, 1.0), rows_of(base, ("",))
    held = jointly(base, facts[:1], 1, mask, None, settings, seed=0)
    beside = [facts[1], facts[0]]
    apart = jointly(base, beside, 1, mask, held.values, settings, seed=1, memory=0)
    monkeypatch.setitem(suffix.SHARED, "cpu", 10**6)
    shared = jointly(base, beside, 1, mask, held.values, settings, seed=1, memory=0)
    assert held.failed == shared.failed == apart.failed == ()
    assert 0 < shared.iterations == apart.iterations < settings.max_steps
    torch.testing.assert_close(shared.values, apart.values, atol=1e-5, rtol=0)


# --- the margins (properties 2 and 6) ---------------------------------------------------------

MARGINS = OrderedSettings()  # alpha 5, beta 20, gamma 10


@pytest.mark.parametrize(
    ("edits", "calm", "wanted"),
    [
        ([25.0, 30.0], [1.0, 2.0], 0.0),  # none violated
        ([25.0, 18.0], [1.0], 2 / 2),  # one edit too quiet: the mean over all edits
        ([18.0, 16.0], [1.0], (2 + 4) / 2),  # all too quiet
        ([40.0, 40.0], [1.0, 11.0], 6 / 2),  # one irrelevant prompt too loud
        ([40.0], [7.0, 9.0], (2 + 4) / 2),  # all too loud
        ([21.0], [15.0], 10 + (10 - 6)),  # too loud, and too near
        ([21.0, 40.0], [4.0, 13.0], 8 / 2 + 2 / 4),  # one pair of four too near
        ([0.0, 0.0], [0.0], 20 + 10),  # where nothing has moved
        ([20.0], [5.0], 0.0),  # on the edge
    ],
)
def test_margins_by_hand(edits: list[float], calm: list[float], wanted: float) -> None:
    found = margin_loss(torch.tensor(edits), torch.tensor(calm), MARGINS)
    assert float(found) == pytest.approx(wanted)


distances = st.lists(st.integers(0, 120).map(lambda n: n / 4 + 0.1), min_size=1, max_size=5)


@given(edits=distances, calm=distances)
def test_margins_pull_each_activation_its_own_way(edits: list[float], calm: list[float]) -> None:
    e = torch.tensor(edits, requires_grad=True)
    i = torch.tensor(calm, requires_grad=True)
    loss = margin_loss(e, i, MARGINS)
    up, down = torch.autograd.grad(loss, (e, i))
    assert float(loss.detach()) >= 0
    for value, slope in zip(edits, up.tolist(), strict=True):
        near = any(value - other < MARGINS.gamma for other in calm)
        assert slope < 0 if value < MARGINS.beta or near else slope == 0
    for value, slope in zip(calm, down.tolist(), strict=True):
        near = any(other - value < MARGINS.gamma for other in edits)
        assert slope > 0 if value > MARGINS.alpha or near else slope == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_at_the_main_memory_the_margins_are_flat_and_the_gradient_finite(
    tiny_base: BaseOf, family: str
) -> None:
    """Property 2: biases included, which both memories share."""
    base = tiny_base(family)
    mask = mask_of(base)
    batches = [base.batch(calm_rows(base))]
    [record] = Suffix.record(base.model, base.architecture, base.layer, batches).records
    change = MaskedChange(
        mask.entries(), torch.zeros(mask.count), base.projection.weight(base.model)
    )
    moved = activations(record.side(change), record.batch.prompt_lengths)
    loss = margin_loss(moved, moved, MARGINS)
    (gradient,) = torch.autograd.grad(loss, change.values)
    assert torch.equal(moved.detach(), torch.zeros(len(CALM)))
    assert float(loss.detach()) == MARGINS.beta + MARGINS.gamma
    assert torch.equal(gradient, torch.zeros_like(gradient))
    first = ordered(base, mask_of(base), OrderedSettings(max_steps=1), rows_of(base)[:1])
    assert first.values.isfinite().all()
    assert first.values.any(), "the first step comes from the target alone"
