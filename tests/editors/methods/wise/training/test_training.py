"""The trainers against a plain loop over the whole model, and the margins by hand."""

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
from tiny_models import quick_first

from editors import METHODS, EditorError
from editors.inference.generation import answers
from editors.methods.training import suffix_replay
from editors.methods.training.loops import Training
from editors.methods.training.suffix_replay import record_states
from editors.methods.wise.activation import activation, activations
from editors.methods.wise.settings import WiseSettings
from editors.methods.wise.shards import Mask, Shard
from editors.methods.wise.training import joint
from editors.methods.wise.training.joint import train_jointly
from editors.methods.wise.training.masked_delta import MaskedDelta
from editors.methods.wise.training.sequential import (
    ENOUGH,
    margin_loss,
    train_sequentially,
)
from editors.model.base_model import Base
from editors.model.tokenization import Row, encode_pairs, encode_prompt

BaseOf = Callable[..., Any]
# A bias-free gated MLP, a biased one beside its attention, Conv1D; then norms after the MLP, and
# a block that flattens its rows.
FAMILIES = quick_first(["llama", "gptj", "gpt2", "gemma2", "opt"])
UNRELATED = [
    "the sea and the mountain",
    "who plays the piano with Bob ?",
    "red green blue one two three",
]


def rows_of(base: Base, beginnings: tuple[str, ...] = ("", "Ann wrote , ")) -> list[list[Row]]:
    """For each fact its bare prompt and one after a beginning."""
    return [
        encode_pairs(
            base.tokenizer,
            [(start + fact.prompt, fact.target) for start in beginnings],
            stop=True,
        )
        for fact in FACTS[:3]
    ]


def unrelated_rows(base: Base) -> list[Row]:
    encoded = [encode_prompt(base.tokenizer, text) for text in UNRELATED]
    return [Row.of_prompt(ids) for ids in encoded]


def mask_of(base: Base, ratio: float = 0.3) -> Mask:
    return Mask((base.projection.out_features, base.projection.in_features), ratio, 5)


def whole(full_loop: ModuleType, base: Base) -> Any:
    projection = base.projection
    return full_loop.FullModel(base.model, projection.path, stored_transposed=projection.transposed)


def edited(base: Base, mask: Mask, trained: Training) -> torch.Tensor:
    return base.projection.weight(base.model) + Shard((), mask, trained.values).delta()


def paper(max_steps: int, **options: float) -> WiseSettings:
    """The settings of sequential training in the paper."""
    return WiseSettings(max_steps=max_steps, **{"learning_rate": 1.0, **options})


def sequentially(
    base: Base, mask: Mask, settings: WiseSettings, edits: Any, enough: float = ENOUGH
) -> Training:
    irrelevant = unrelated_rows(base)
    return train_sequentially(base, edits, irrelevant, mask, None, settings, enough=enough)


# --- the plain loop ---------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_sequential_training_trains_what_the_whole_model_trains(
    tiny_base: BaseOf, full_loop: ModuleType, family: str
) -> None:
    base, settings = tiny_base(family), paper(6)
    mask, edits = mask_of(base), rows_of(base)
    trained = sequentially(base, mask, settings, edits)
    wanted = full_loop.sequentially(
        whole(full_loop, base), edits, unrelated_rows(base), mask.entries(), settings
    )
    torch.testing.assert_close(edited(base, mask, trained), wanted.weight, atol=1e-5, rtol=0)
    assert trained.threshold == pytest.approx(wanted.threshold, abs=1e-4)
    assert trained.iterations == wanted.steps == 18


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_public_loop_trains_the_same_so_that_speed_is_all_that_differs(
    tiny_base: BaseOf, full_loop: ModuleType, family: str
) -> None:
    base, settings = tiny_base(family), paper(6)
    mask, rows = mask_of(base), rows_of(base)[0]
    trained = sequentially(base, mask, settings, [rows])
    wanted = full_loop.one_edit(
        whole(full_loop, base), rows, unrelated_rows(base), mask.entries(), settings
    )
    torch.testing.assert_close(edited(base, mask, trained), wanted.weight, atol=1e-5, rtol=0)
    assert trained.iterations == wanted.steps == 6


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_sequential_training_stops_where_the_plain_loop_stops(
    tiny_base: BaseOf, full_loop: ModuleType, family: str
) -> None:
    """Margins that are met early, and a level that is reached before the steps run out."""
    base = tiny_base(family)
    settings = paper(12, learning_rate=0.5, alpha=30.0, beta=1.0, gamma=0.1)
    mask, edits = mask_of(base), rows_of(base)
    trained = sequentially(base, mask, settings, edits, enough=4.0)
    wanted = full_loop.sequentially(
        whole(full_loop, base), edits, unrelated_rows(base), mask.entries(), settings, enough=4.0
    )
    assert 0 < wanted.steps < 36
    assert trained.iterations == wanted.steps
    torch.testing.assert_close(edited(base, mask, trained), wanted.weight, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("family", "batch_size", "batch_tokens"),
    [
        *quick_first(["llama", "gptj", "gpt2", "gemma2", "opt"], 64, 2048),
        *quick_first(["llama", "gptj", "opt"], 2, 2048),
        *quick_first(["gpt2", "gptj", "opt"], 64, 20),
    ],
)
def test_joint_training_trains_what_the_whole_model_trains(
    tiny_base: BaseOf,
    full_loop: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    batch_size: int,
    batch_tokens: int,
) -> None:
    base = tiny_base(family)
    settings = WiseSettings(max_steps=12, learning_rate=0.25, confidence=0.2)
    monkeypatch.setitem(joint.BATCH_SIZE, "cpu", batch_size)
    monkeypatch.setattr(joint, "BATCH_TOKENS", batch_tokens)
    mask = mask_of(base)
    facts = rows_of(base)
    rows = [row for of_fact in facts for row in of_fact]
    trained = train_jointly(base, facts, 3, mask, None, settings, seed=4)
    wanted = full_loop.jointly(
        whole(full_loop, base),
        rows,
        mask.entries(),
        settings,
        seed=4,
        batch_size=batch_size,
        batch_tokens=batch_tokens,
    )
    torch.testing.assert_close(edited(base, mask, trained), wanted.weight, atol=1e-5, rtol=0)
    assert trained.iterations == wanted.steps


def test_joint_training_stops_where_the_plain_loop_stops(
    tiny_base: BaseOf, full_loop: ModuleType
) -> None:
    base = tiny_base("llama")
    settings = WiseSettings(max_steps=150, learning_rate=0.5, confidence=0.25)
    mask = mask_of(base, 0.5)
    facts = rows_of(base, ("",))
    rows = [row for of_fact in facts for row in of_fact]
    trained = train_jointly(base, facts, 3, mask, None, settings, seed=0)
    wanted = full_loop.jointly(whole(full_loop, base), rows, mask.entries(), settings, seed=0)
    assert trained.iterations == wanted.steps < 150
    assert trained.failed == ()
    torch.testing.assert_close(edited(base, mask, trained), wanted.weight, atol=1e-5, rtol=0)


# --- the loop's other promises ----------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_training_changes_no_tensor_of_the_base(tiny_base: BaseOf, family: str) -> None:
    """Nor an entry outside the mask. The shared models are also compared after every test."""
    base = tiny_base(family)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    mask = mask_of(base)
    trained = sequentially(base, mask, paper(3), rows_of(base))
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in base.model.parameters())
    weight = base.projection.weight(base.model)
    assert torch.equal(edited(base, mask, trained)[~mask.entries()], weight[~mask.entries()])
    assert trained.values.abs().min() < trained.values.abs().max()


def test_the_threshold_is_the_smallest_activation_measured_after_its_own_edit(
    tiny_base: BaseOf,
) -> None:
    """After the first edits alone the threshold is known, and it never rises."""
    base, settings = tiny_base("llama"), paper(4)
    mask, edits = mask_of(base), rows_of(base)
    measured, thresholds = [], []
    for count in range(1, 4):
        trained = sequentially(base, mask, settings, edits[:count])
        last = edits[count - 1][0]
        batches = [base.batch([last])]
        [recorded] = record_states(base, batches).records
        delta = edited(base, mask, trained) - base.projection.weight(base.model)
        measured.append(float(activation(recorded.inputs[0, : last.prompt_length], delta)))
        thresholds.append(trained.threshold)
        assert trained.threshold == pytest.approx(min(measured), rel=1e-5)
    assert thresholds == sorted(thresholds, reverse=True)


def test_going_on_from_earlier_values_is_training_in_one_go(tiny_base: BaseOf) -> None:
    base, settings = tiny_base("gpt2"), paper(3)
    mask, edits = mask_of(base), rows_of(base)
    at_once = sequentially(base, mask, settings, edits)
    first = sequentially(base, mask, settings, edits[:2])
    then = train_sequentially(base, edits[2:], unrelated_rows(base), mask, first.values, settings)
    assert torch.equal(then.values, at_once.values)
    assert first.iterations + then.iterations == at_once.iterations
    assert min(first.threshold, then.threshold) == at_once.threshold


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_in_half_precision_is_trained_and_attached(
    tiny_base: BaseOf, dtype: torch.dtype
) -> None:
    base = tiny_base("llama")
    base = replace(base, model=deepcopy(base.model).to(dtype))
    method = METHODS.load("wise").build(base, FAST, 0)
    done = edit(method, FACTS[:2])
    assert done.failed == ()
    with method.attach(done.state) as model:
        after = answers(model, [fact.prompt for fact in FACTS[:2]], 5)
    assert [answer.text for answer in after] == [fact.target for fact in FACTS[:2]]


def test_what_cannot_be_learnt_is_named(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    mask, settings = mask_of(base), WiseSettings(max_steps=1, learning_rate=0.25, confidence=0.99)
    trained = train_jointly(base, rows_of(base), 3, mask, None, settings, seed=0)
    assert trained.failed == (0, 1, 2)
    assert sequentially(base, mask, paper(1), rows_of(base)).failed == (
        0,
        1,
        2,
    )


def test_an_untrained_wording_that_is_not_answered_is_taught(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    settings = WiseSettings(max_steps=300, learning_rate=0.5, confidence=0.3)
    mask = mask_of(base, 0.5)
    trained, judged = rows_of(base, ("",)), rows_of(base, ("Ann wrote , and then ",))
    without = train_jointly(base, trained, 3, mask, None, settings, seed=0)
    no_steps = replace(settings, max_steps=1, learning_rate=1e-8)
    at_judged = train_jointly(base, judged, 3, mask, without.values, no_steps, seed=0)
    assert at_judged.failed, "nothing to teach: the judged wordings are answered untrained"
    taught = train_jointly(base, trained, 3, mask, None, settings, seed=0, judged=judged)
    assert taught.failed == ()
    assert taught.iterations > without.iterations
    for rows in (trained, judged):
        assert not train_jointly(base, rows, 3, mask, taught.values, no_steps, seed=0).failed
    # What cannot be taught in the steps that are left is named.
    few = replace(settings, max_steps=without.iterations + 1)
    assert train_jointly(base, trained, 3, mask, None, few, seed=0, judged=judged).failed


def test_an_edit_that_ends_in_no_numbers_is_refused(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    base = replace(base, model=deepcopy(base.model))
    method = METHODS.load("wise").build(base, FAST, 0)
    start = no_edits(method)
    base.model.lm_head.weight.data[5] = float("nan")  # as after an overflow in half precision
    with pytest.raises(EditorError, match="not finite numbers"):
        edit(method, FACTS[:1], start)


def test_what_a_later_edit_spoils_is_trained_again(tiny_base: BaseOf) -> None:
    """Facts that the values hold from before are kept, whether they are taught again or not."""
    base = tiny_base("llama")
    settings = WiseSettings(max_steps=300, learning_rate=0.5, confidence=0.3)
    mask, facts = mask_of(base, 0.2), rows_of(base)
    held = train_jointly(base, facts[:2], 2, mask, None, settings, seed=0)
    alone = train_jointly(base, facts[2:], 1, mask, held.values, settings, seed=1)
    beside = train_jointly(base, [facts[2], *facts[:2]], 1, mask, held.values, settings, seed=1)
    only_looking = replace(settings, max_steps=1, learning_rate=1e-8)
    assert train_jointly(base, facts[:2], 2, mask, alone.values, only_looking, seed=1).failed
    assert held.failed == alone.failed == beside.failed == ()
    assert beside.iterations > alone.iterations


def test_what_was_not_sure_before_is_not_trained(tiny_base: BaseOf) -> None:
    """An edit costs what it spoils, and not what an earlier one has failed to learn."""
    base = tiny_base("llama")
    settings = WiseSettings(max_steps=300, learning_rate=0.5, confidence=0.3)
    mask, facts = mask_of(base, 0.5), rows_of(base)
    alone = train_jointly(base, facts[2:], 1, mask, None, settings, seed=1)
    beside = train_jointly(base, [facts[2], *facts[:2]], 1, mask, None, settings, seed=1)
    assert (alone.failed, beside.failed) == ((), (1, 2))
    assert torch.equal(alone.values, beside.values)
    assert alone.iterations == beside.iterations


@pytest.mark.parametrize("confidence", [0.3, 0.6])
def test_what_is_held_may_be_recorded_in_the_same_forward(
    tiny_base: BaseOf, monkeypatch: pytest.MonkeyPatch, confidence: float
) -> None:
    """As on an accelerator; with a confidence that leaves nothing to look at in the end, too."""
    base = tiny_base("llama")
    settings = WiseSettings(max_steps=300, learning_rate=0.2, confidence=confidence)
    monkeypatch.setitem(joint.BATCH_SIZE, "cpu", 2)
    mask, facts = mask_of(base, 1.0), rows_of(base, ("",))
    held = train_jointly(base, facts[:1], 1, mask, None, settings, seed=0)
    beside = [facts[1], facts[0]]
    apart = train_jointly(base, beside, 1, mask, held.values, settings, seed=1, memory_bytes=0)
    monkeypatch.setitem(suffix_replay.SHARED_TOKENS, "cpu", 10**6)
    shared = train_jointly(base, beside, 1, mask, held.values, settings, seed=1, memory_bytes=0)
    assert held.failed == shared.failed == apart.failed == ()
    assert 0 < shared.iterations == apart.iterations < settings.max_steps
    torch.testing.assert_close(shared.values, apart.values, atol=1e-5, rtol=0)


# --- the margins ------------------------------------------------------------------------------

MARGINS = WiseSettings()  # alpha 5, beta 20, gamma 10


@pytest.mark.parametrize(
    ("edits", "unrelated", "wanted"),
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
def test_margins_by_hand(edits: list[float], unrelated: list[float], wanted: float) -> None:
    loss = margin_loss(torch.tensor(edits), torch.tensor(unrelated), MARGINS)
    assert float(loss) == pytest.approx(wanted)


distances = st.lists(st.integers(0, 120).map(lambda n: n / 4 + 0.1), min_size=1, max_size=5)


@given(edits=distances, unrelated=distances)
def test_margins_pull_each_activation_its_own_way(
    edits: list[float], unrelated: list[float]
) -> None:
    edited_ones = torch.tensor(edits, requires_grad=True)
    others = torch.tensor(unrelated, requires_grad=True)
    loss = margin_loss(edited_ones, others, MARGINS)
    up, down = torch.autograd.grad(loss, (edited_ones, others))
    assert float(loss.detach()) >= 0
    for value, slope in zip(edits, up.tolist(), strict=True):
        near = any(value - other < MARGINS.gamma for other in unrelated)
        assert slope < 0 if value < MARGINS.beta or near else slope == 0
    for value, slope in zip(unrelated, down.tolist(), strict=True):
        near = any(other - value < MARGINS.gamma for other in edits)
        assert slope > 0 if value > MARGINS.alpha or near else slope == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_at_the_main_memory_the_margins_are_flat_and_the_gradient_finite(
    tiny_base: BaseOf, family: str
) -> None:
    """Biases included, which both memories share."""
    base = tiny_base(family)
    mask = mask_of(base)
    batches = [base.batch(unrelated_rows(base))]
    [recorded] = record_states(base, batches).records
    change = MaskedDelta(
        mask.entries(), torch.zeros(int(mask.entries().sum())), base.projection.weight(base.model)
    )
    moved = activations(recorded.side(change), recorded.batch.prompt_lengths)
    loss = margin_loss(moved, moved, MARGINS)
    (gradient,) = torch.autograd.grad(loss, change.values)
    assert torch.equal(moved.detach(), torch.zeros(len(UNRELATED)))
    assert float(loss.detach()) == MARGINS.beta + MARGINS.gamma
    assert torch.equal(gradient, torch.zeros_like(gradient))
    first = sequentially(base, mask_of(base), paper(1), rows_of(base)[:1])
    assert first.values.isfinite().all()
    assert first.values.any(), "the first step comes from the target alone"
