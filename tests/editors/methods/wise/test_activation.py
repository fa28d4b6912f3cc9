"""The paper's own scope: activations (WISE Eq. 3), thresholds, and one decision for each prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_edits import FACTS, PAPER, edit

from editors.inference.decisions import UNCLAIMED, Decision, NoClaims
from editors.inference.edited_model import attached
from editors.inference.hidden_states import projection_inputs
from editors.methods.wise.activation import (
    ActivationRouter,
    activation,
    activations,
    safe_norm,
)
from editors.methods.wise.memory_layer import SideMemoryLinear
from editors.methods.wise.shards import Mask, Shard
from editors.model.tokenization import Ids, Row, encode_prompt

BaseOf = Callable[..., Any]
FAMILIES = ["gpt2", "gptj", "llama", "gemma2", "opt"]
PROMPTS = [(1, 5, 9, 20), (1, 8, 40), (1, 33, 12, 64, 70, 18, 22), (1, 50, 51)]


def shards(base: Any, thresholds: Sequence[float], scale: float = 0.3) -> list[Shard]:
    shape = (base.projection.out_features, base.projection.in_features)
    made = []
    for number, threshold in enumerate(thresholds):
        mask = Mask(shape, 0.3, number)
        generator = torch.Generator().manual_seed(number)
        values = scale * torch.randn(int(mask.entries().sum()), generator=generator)
        made.append(Shard((), mask, values, threshold))
    return made


def scores(base: Any, shard: Shard) -> list[float]:
    """The activation of each of PROMPTS, on its own."""
    return [
        float(activation(projection_inputs(base, [prompt])[0], shard.delta())) for prompt in PROMPTS
    ]


def decided(router: ActivationRouter, prompts: Sequence[Ids]) -> list[Decision]:
    return router.decide(router.propose(prompts), None)


def with_shards(base: Any, router: ActivationRouter, memories: Sequence[Shard]) -> Any:
    path = base.projection.path
    layer = SideMemoryLinear(base.model.get_submodule(path), memories)
    return attached(base, {path: layer}, router)


# --- the activation -------------------------------------------------------------------------------


def test_the_activation_is_the_mean_over_tokens_of_how_far_the_output_moves() -> None:
    weight, delta = torch.randn(5, 6), torch.randn(5, 6)
    inputs = torch.randn(7, 6)
    wanted = torch.stack([(weight + delta) @ x - weight @ x for x in inputs]).norm(dim=1).mean()
    torch.testing.assert_close(activation(inputs, delta), wanted, atol=1e-5, rtol=1e-5)


def test_rows_of_a_batch_have_the_activation_that_they_have_alone() -> None:
    side, lengths = torch.randn(3, 7, 5), torch.tensor([7, 1, 4])
    alone = [side[row, :n].norm(dim=1).mean() for row, n in enumerate(lengths.tolist())]
    torch.testing.assert_close(activations(side, lengths), torch.stack(alone))


def test_where_nothing_has_moved_the_activation_and_its_gradient_are_zero() -> None:
    delta = torch.zeros(5, 6, requires_grad=True)
    value = activation(torch.randn(7, 6), delta)
    (gradient,) = torch.autograd.grad(value, delta)
    assert float(value.detach()) == 0
    assert torch.equal(gradient, torch.zeros(5, 6))


@given(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=8))
def test_the_safe_norm_is_the_root_and_its_gradient_is_finite(values: list[float]) -> None:
    squares = torch.tensor(values, requires_grad=True)
    roots = safe_norm(squares)
    assert torch.equal(roots.detach(), squares.detach().sqrt())
    if min((v for v in values if v > 0), default=1.0) > 1e-30:
        (gradient,) = torch.autograd.grad(roots.sum(), squares)
        assert gradient.isfinite().all()


# --- decisions ------------------------------------------------------------------------------------


def test_the_loudest_memory_above_its_own_threshold_answers(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    loud = shards(base, [0, 0, 0])
    best = max(range(3), key=lambda n: scores(base, loud[n])[0])
    [decision] = decided(ActivationRouter(base, loud), PROMPTS[:1])
    assert decision.memory == best
    assert decision.score == pytest.approx(scores(base, loud[best])[0], rel=1e-5)


def test_a_memory_below_its_threshold_cannot_veto(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    loud = shards(base, [0, 0, 0])
    order = sorted(range(3), key=lambda n: -scores(base, loud[n])[0])
    blocked = shards(base, [1e9 if n == order[0] else 0.0 for n in range(3)])
    assert decided(ActivationRouter(base, blocked), PROMPTS[:1])[0].memory == order[1]


def test_with_every_memory_below_its_threshold_the_base_answers(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    [decision] = decided(ActivationRouter(base, shards(base, [1e9, 1e9])), PROMPTS[:1])
    assert not decision.opened
    assert (decision.fact, decision.threshold) == (None, 1e9)


def test_a_shard_without_a_measured_threshold_never_opens(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    router = ActivationRouter(base, shards(base, [float("inf")], scale=10))
    assert not any(decision.opened for decision in decided(router, PROMPTS))


def test_the_quietest_edit_itself_opens_its_memory(tiny_base: BaseOf) -> None:
    """The threshold is the smallest activation over the edits, so it must not shut that edit out,
    however its activation is rounded."""
    base = tiny_base("llama")
    one = shards(base, [0.0])[0]
    measured = scores(base, one)
    for prompt, score in zip(PROMPTS, measured, strict=True):
        for rounded in (score, score * (1 + 1e-6)):
            exact = Shard((), one.support, one.values, rounded)
            assert decided(ActivationRouter(base, [exact]), [prompt])[0].opened
        above = Shard((), one.support, one.values, score * 1.001)
        assert not decided(ActivationRouter(base, [above]), [prompt])[0].opened


def test_the_ratio_scales_the_threshold(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    one = shards(base, [0.0])[0]
    strict = Shard((), one.support, one.values, scores(base, one)[0] * 1.1)
    assert not decided(ActivationRouter(base, [strict]), PROMPTS[:1])[0].opened
    assert decided(ActivationRouter(base, [strict], ratio=0.88), PROMPTS[:1])[0].opened


def test_where_nothing_is_edited_nothing_is_claimed() -> None:
    router = NoClaims()
    assert router.decide(router.propose(PROMPTS), None) == [UNCLAIMED] * len(PROMPTS)


# --- one decision for a prompt --------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_companions_and_pads_do_not_change_a_route(tiny_base: BaseOf, family: str) -> None:
    base = tiny_base(family)
    made = shards(base, [0.0])
    middle = sum(sorted(scores(base, made[0]))[1:3]) / 2  # two prompts open, two do not
    memories = shards(base, [middle])
    router = ActivationRouter(base, memories)
    alone = [decided(router, [prompt])[0] for prompt in PROMPTS]
    assert {decision.opened for decision in alone} == {True, False}
    for side in ("left", "right"):
        batch = base.batch([Row.of_prompt(prompt) for prompt in PROMPTS], side=side)
        with with_shards(base, router, memories) as model, torch.no_grad(), model.noting() as calls:
            base.model(input_ids=batch.ids, attention_mask=batch.mask)
        together = model.decisions(calls)
        assert [d.memory for d in together] == [d.memory for d in alone]
        assert [d.score for d in together] == pytest.approx([d.score for d in alone], rel=1e-5)


def test_the_activation_is_of_prompts_without_their_targets(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    memories = shards(base, [0.0])
    router = ActivationRouter(base, memories)
    wanted = [decision.score for decision in decided(router, PROMPTS)]
    rows = [Row((*prompt, 60, 61), len(prompt)) for prompt in PROMPTS]
    for side in ("left", "right"):
        batch = base.batch(rows, side=side)
        with (
            with_shards(base, router, memories) as model,
            model.scoring(batch.prompt_lengths),
            model.noting() as calls,
            torch.no_grad(),
        ):
            base.model(input_ids=batch.ids, attention_mask=batch.mask)
        measured = [decision.score for decision in model.decisions(calls)]
        assert measured == pytest.approx(wanted, rel=1e-5)


def test_a_generation_keeps_the_decision_taken_for_its_prompt(
    tiny_wise: Callable[..., Any],
) -> None:
    method = tiny_wise("llama", PAPER)
    state = edit(method, FACTS).state
    base = method.base
    prompts = [encode_prompt(base.tokenizer, fact.prompt) for fact in FACTS]
    batch = base.batch([Row.of_prompt(prompt) for prompt in prompts], side="left")
    with method.attach(state) as model, model.noting() as calls:
        base.model.generate(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=None,
        )
    assert [call.prompts for call in calls] == [prompts], "six tokens, one decision"
