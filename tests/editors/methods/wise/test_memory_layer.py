"""The edited projection: each row goes through main memory, or one shard is added to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from editors import EditorError
from editors.inference.calls import Call, Forward, running
from editors.inference.decisions import Decision
from editors.methods.wise.memory_layer import MAX_UNPACKED, SideMemoryLinear
from editors.methods.wise.shards import Mask, Shard


def shard(seed: int = 0) -> Shard:
    mask = Mask((5, 6), 0.5, seed)
    values = torch.randn(
        int(mask.entries().sum()), generator=torch.Generator().manual_seed(seed + 1)
    )
    return Shard((("a", "b"),), mask, values)


@contextmanager
def routed(memories: Sequence[int], columns: int = 3) -> Iterator[None]:
    """A forward whose rows these memories answer."""
    count = len(memories)
    decisions = [Decision(memory) for memory in memories]
    call = Call([(1,)] * count, torch.zeros(count, dtype=torch.long), decisions)
    with running(Forward(call, list(range(count)), columns, 0)):
        yield


def projection(kind: str) -> tuple[nn.Module, torch.Tensor]:
    """A module from 6 to 5 features, and its weight as ``[out, in]``."""
    torch.manual_seed(0)
    if kind == "conv1d":
        module: nn.Module = Conv1D(5, 6)
        nn.init.normal_(module.bias)
        return module, module.weight.detach().T
    module = nn.Linear(6, 5, bias=kind == "biased")
    return module, module.weight.detach()


@pytest.mark.parametrize("kind", ["linear", "biased", "conv1d"])
def test_each_row_goes_through_main_or_its_own_shard(kind: str) -> None:
    module, weight = projection(kind)
    shards = [shard(seed) for seed in range(2)]
    side = SideMemoryLinear(module, shards)
    x = torch.randn(4, 3, 6)
    bias = module.bias if getattr(module, "bias", None) is not None else torch.zeros(5)
    with torch.no_grad(), routed([1, -1, 0, 1]):
        found, main = side(x), module(x)
    assert torch.equal(found[1], main[1])
    for row, number in ((0, 1), (2, 0), (3, 1)):
        wanted = x[row] @ (weight + shards[number].delta()).T + bias
        torch.testing.assert_close(found[row], wanted.detach())


@pytest.mark.parametrize("memory", [0, 1])
def test_rows_that_share_a_shard_are_answered_by_it(memory: int) -> None:
    module, weight = projection("linear")
    shards = [shard(seed) for seed in range(2)]
    x = torch.randn(3, 2, 6)
    with torch.no_grad(), routed([memory] * 3, 2):
        found = SideMemoryLinear(module, shards)(x)
    torch.testing.assert_close(found, x @ (weight + shards[memory].delta()).T)


def test_without_a_route_everything_is_main() -> None:
    module, _ = projection("biased")
    side = SideMemoryLinear(module, [shard()])
    x = torch.randn(2, 3, 6)
    with torch.no_grad():
        assert torch.equal(side(x), module(x))
        with routed([-1, -1]):
            assert torch.equal(side(x), module(x))


def test_a_block_that_flattens_its_rows_is_routed_alike() -> None:
    side = SideMemoryLinear(projection("linear")[0], [shard()])
    x = torch.randn(2, 3, 6)
    with torch.no_grad(), routed([0, -1]):
        torch.testing.assert_close(side(x.flatten(0, 1)), side(x).flatten(0, 1))


@pytest.mark.parametrize("shape", [(3, 4, 6), (9, 6)])
def test_a_batch_that_was_not_routed_is_refused(shape: tuple[int, ...]) -> None:
    side = SideMemoryLinear(projection("linear")[0], [shard()])
    with routed([0, -1]), pytest.raises(EditorError, match=f"{shape[0]} rows .* routed 2"):
        side(torch.randn(shape))


def test_more_shards_than_are_kept_unpacked_still_answer_each_its_own() -> None:
    module, weight = projection("linear")
    many = [shard(seed) for seed in range(MAX_UNPACKED + 3)]
    side = SideMemoryLinear(module, many)
    x = torch.randn(len(many), 2, 6)
    with torch.no_grad():
        for order in (range(len(many)), range(3), reversed(range(len(many)))):
            shards = list(order)
            with routed(shards, 2):
                found = side(x[: len(shards)])
            for row, read, number in zip(found, x, shards, strict=False):
                torch.testing.assert_close(row, read @ (weight + many[number].delta()).T)


def test_a_step_over_more_shards_than_are_kept_unpacked_unpacks_none_again() -> None:
    unpacked: list[int] = []

    class Noting:
        threshold = 0.0

        def __init__(self, number: int) -> None:
            self.number = number

        def factors(self) -> tuple[torch.Tensor, ...]:
            unpacked.append(self.number)
            return (torch.zeros(5, 6),)

    many = range(MAX_UNPACKED + 3)
    side = SideMemoryLinear(projection("linear")[0], [Noting(number) for number in many])
    with routed(many, 1):
        for _ in range(3):
            side(torch.randn(len(many), 1, 6))
    assert unpacked == list(many)
