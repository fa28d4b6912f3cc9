"""Shards of low rank: what they change, and that they live as shards on a mask do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_edits import FACTS, FAST, FRANCE, edit, no_edits, reopened

from editors import EditorError
from editors.inference.generation import answers
from editors.methods.wise.shards import FIRST_DOWN, FIRST_INPUTS, LowRank, Shard

WiseOf = Callable[..., Any]
LOW_RANK = {**FAST, "memory": "low-rank", "memory_rank": 4, "learning_rate": 8.0, "shard_size": 1}


def told(method: Any, state: Any) -> list[str]:
    with method.attach(state) as model:
        return [answer.text for answer in answers(model, [fact.prompt for fact in FACTS], 3)]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_facts_are_answered_from_shards_of_low_rank(tiny_wise: WiseOf, family: str) -> None:
    method = tiny_wise(family, LOW_RANK)
    applied = edit(method, FACTS)
    assert applied.failed == ()
    found = told(method, applied.state)
    assert all(text.startswith(f.target) for text, f in zip(found, FACTS, strict=True))
    for shard in applied.state.payload.shards:
        assert torch.linalg.matrix_rank(shard.delta()) <= 4
    assert told(method, reopened(method, applied.state)) == found


def test_taken_back_it_is_the_base(tiny_wise: WiseOf) -> None:
    method = tiny_wise("llama", LOW_RANK)
    state = edit(method, [FRANCE]).state
    assert told(method, method.remove(state, [FRANCE.id]).state) == told(method, no_edits(method))


def test_equal_runs_give_equal_shards(tiny_wise: WiseOf) -> None:
    method = tiny_wise("llama", LOW_RANK)
    one, other = (edit(method, [FRANCE]).state.payload.shards[0] for _ in range(2))
    assert torch.equal(one.values, other.values)


def test_the_factors_multiply_to_the_change() -> None:
    support = LowRank((5, 7), 3, 1, 0.5)
    values = torch.randn(support.count)
    up, down = support.factors(values)
    assert (up.shape, down.shape) == ((5, 3), (3, 7))
    torch.testing.assert_close(up @ down, Shard((), support, values).delta())


@pytest.mark.parametrize("tokens", [1, 2, 9, FIRST_INPUTS + 50])
def test_a_first_shard_changes_nothing_and_reads_what_is_largest_in_the_inputs(tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(tokens, 40, generator=generator) * 0.1 + torch.linspace(1, 2, 40)
    support = LowRank((5, 40), 3, 1, 0.5)
    values = support.first(0.2, inputs)
    assert not Shard((), support, values).delta().any()
    _, down = support.factors(values)
    *_, directions = torch.linalg.svd(inputs, full_matrices=False)
    assert torch.linalg.matrix_rank(down) == 3
    torch.testing.assert_close((down[0] @ directions[0]).abs(), down[0].norm(), rtol=1e-2, atol=0)
    torch.testing.assert_close(down[0].square().mean().sqrt(), torch.tensor(0.2 * FIRST_DOWN))


def test_inputs_that_say_nothing_leave_a_drawn_start() -> None:
    support = LowRank((5, 40), 3, 1, 0.5)
    _, down = support.factors(support.first(0.2, torch.zeros(4, 40)))
    assert down.isfinite().all()
    assert torch.linalg.matrix_rank(down) == 3


def test_a_shard_of_another_size_is_refused() -> None:
    support = LowRank((5, 7), 3, 1, 0.5)
    with pytest.raises(EditorError, match="35 values where its support has 36"):
        Shard((), support, torch.zeros(35)).delta()


def test_the_training_of_the_paper_takes_no_low_rank(tiny_wise: WiseOf) -> None:
    with pytest.raises(EditorError, match="memory=low-rank needs training=joint"):
        tiny_wise("llama", {"profile": "paper", "memory": "low-rank"})
