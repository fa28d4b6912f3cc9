"""Masks, shards as tensors, and the module that sends each row through main or one shard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from editors import EditorError
from editors.errors import StateMismatch
from editors.methods.edit_state import to_bytes
from editors.methods.wise.shards import (
    DENSE_SHARDS_KEPT,
    DRAWN_AT_ONCE,
    Mask,
    Shard,
    SideMemoryLinear,
)
from editors.model.hooks import swapped

SHAPE = (400, 500)
N = SHAPE[0] * SHAPE[1]


def shard(shape: tuple[int, int], ratio: float = 0.5, seed: int = 0) -> Shard:
    mask = Mask(shape, ratio, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    return Shard(("a", "b"), mask, torch.randn(mask.count, generator=generator), 3.25)


# --- masks (property 5) -----------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.05, 0.2, 0.5])
def test_a_mask_has_its_density_and_two_overlap_by_its_square(ratio: float) -> None:
    masks = [Mask(SHAPE, ratio, seed).entries() for seed in range(4)]
    for mask in masks:
        assert abs(int(mask.sum()) - ratio * N) < 5 * (N * ratio * (1 - ratio)) ** 0.5
    shared = ratio**2
    for i, one in enumerate(masks):
        for other in masks[:i]:
            overlap = int((one & other).sum())
            assert abs(overlap - shared * N) < 5 * (N * shared * (1 - shared)) ** 0.5


def test_the_same_seed_gives_the_same_mask_whatever_was_drawn_before() -> None:
    first = Mask(SHAPE, 0.2, 7).entries()
    torch.rand(3)
    other = Mask(SHAPE, 0.2, 8).entries()
    assert torch.equal(Mask(SHAPE, 0.2, 7).entries(), first)
    assert not torch.equal(other, first)


def test_masks_are_the_same_for_ever() -> None:
    """Shards are saved with their seeds alone: these bits must never change."""
    found = [Mask((3, 5), 0.5, seed).entries().int().tolist() for seed in (0, 2**63 - 1)]
    assert found[0] == [[1, 1, 0, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 0, 1]]
    assert found[1] == [[0, 0, 0, 1, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]


def test_drawing_a_mask_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    Mask((4, 4), 0.5, 1).entries()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("extra", [0, 1, 5])
def test_a_mask_drawn_in_parts_is_the_stream_of_its_generator(extra: int) -> None:
    words = DRAWN_AT_ONCE + extra
    drawn = np.random.Philox(key=5).random_raw(words).astype("<u8").view("<u4") < 2**30
    assert torch.equal(Mask((2, words), 0.25, 5).entries().flatten(), torch.from_numpy(drawn))


def test_entries_outside_the_mask_are_bit_identical_to_main() -> None:
    """Property 4: whatever the values, and with no decay anywhere."""
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    some = shard(SHAPE, 0.2)
    inside = some.mask.entries()
    edited = weight + some.delta()
    assert torch.equal(edited[~inside], weight[~inside])
    assert torch.equal(edited[inside], weight[inside] + some.values)
    assert not some.delta()[~inside].any()
    assert torch.equal(some.delta()[inside], some.values)


# --- shards as tensors ------------------------------------------------------------------------


@given(
    shape=st.tuples(st.integers(1, 13), st.integers(1, 13)),
    ratio=st.floats(0, 1),
    threshold=st.floats(width=32, allow_nan=False),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_a_shard_survives_packing(
    shape: tuple[int, int], ratio: float, threshold: float, dtype: torch.dtype
) -> None:
    mask = Mask(shape, ratio, 1)
    values = torch.randn(mask.count).to(dtype)
    before = Shard(("x",), mask, values, threshold)
    after = Shard.unpacked(("x",), before.packed())
    assert after.mask == before.mask
    assert after.values.dtype == dtype
    assert torch.equal(after.values, before.values)
    assert (after.facts, after.threshold) == (("x",), threshold)
    assert to_bytes(after.packed()) == to_bytes(before.packed())


@pytest.mark.parametrize("name", ["shape", "ratio", "seed", "values", "threshold"])
def test_a_damaged_shard_is_refused(name: str) -> None:
    packed = shard((6, 7)).packed()
    without = {k: v for k, v in packed.items() if k != name}
    with pytest.raises(StateMismatch):
        Shard.unpacked((), without)
    with pytest.raises(StateMismatch):
        Shard.unpacked((), {**packed, name: packed[name][:-1]}).delta()


# --- the module -------------------------------------------------------------------------------


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
    shards = [shard((5, 6), seed=seed) for seed in range(2)]
    side = SideMemoryLinear(module, shards)
    x = torch.randn(4, 3, 6)
    bias = module.bias if getattr(module, "bias", None) is not None else torch.zeros(5)
    side.route([1, -1, 0, 1])
    with torch.no_grad():
        found, main = side(x), module(x)
        assert torch.equal(found[1], main[1])
        for row, number in ((0, 1), (2, 0), (3, 1)):
            wanted = x[row] @ (weight + shards[number].delta()).T + bias
            torch.testing.assert_close(found[row], wanted)


def test_without_a_route_everything_is_main() -> None:
    module, _ = projection("biased")
    side = SideMemoryLinear(module, [shard((5, 6))])
    x = torch.randn(2, 3, 6)
    with torch.no_grad():
        for routes in ([], [-1, -1]):
            side.route(routes)
            assert torch.equal(side(x), module(x))


def test_a_block_that_flattens_its_rows_is_routed_alike() -> None:
    module, _ = projection("linear")
    side = SideMemoryLinear(module, [shard((5, 6))])
    side.route([0, -1])
    x = torch.randn(2, 3, 6)
    with torch.no_grad():
        torch.testing.assert_close(side(x.flatten(0, 1)), side(x).flatten(0, 1))


@pytest.mark.parametrize("shape", [(3, 4, 6), (9, 6)])
def test_a_batch_that_was_not_routed_is_refused(shape: tuple[int, ...]) -> None:
    side = SideMemoryLinear(projection("linear")[0], [shard((5, 6))])
    side.route([0, -1])
    with pytest.raises(EditorError, match=f"{shape[0]} rows .* routed 2"):
        side(torch.randn(shape))


def test_more_shards_than_are_kept_dense_still_answer_each_its_own() -> None:
    module, weight = projection("linear")
    many = [shard((5, 6), seed=seed) for seed in range(DENSE_SHARDS_KEPT + 3)]
    side = SideMemoryLinear(module, many)
    x = torch.randn(len(many), 2, 6)
    with torch.no_grad():
        for order in (range(len(many)), range(3), reversed(range(len(many)))):
            shards = list(order)
            side.route(shards)
            for found, read, number in zip(side(x[: len(shards)]), x, shards, strict=False):
                torch.testing.assert_close(found, read @ (weight + many[number].delta()).T)


def test_a_step_over_more_shards_than_are_kept_dense_unpacks_none_again() -> None:
    unpacked: list[int] = []

    class Noting:
        threshold = 0.0

        def __init__(self, number: int) -> None:
            self.number = number

        def delta(self) -> torch.Tensor:
            unpacked.append(self.number)
            return torch.zeros(5, 6)

    many = range(DENSE_SHARDS_KEPT + 3)
    side = SideMemoryLinear(projection("linear")[0], [Noting(number) for number in many])
    side.route(many)
    for _ in range(3):
        side(torch.randn(len(many), 1, 6))
    assert unpacked == list(many)


def test_a_module_leaves_when_its_path_is_restored(fresh_tiny_model: Callable[[str], Any]) -> None:
    model = fresh_tiny_model("llama")
    path = "model.layers.1.mlp.down_proj"
    original, keys = model.get_submodule(path), list(model.state_dict())
    with pytest.raises(ZeroDivisionError), swapped(model, {path: nn.Identity()}):
        raise ZeroDivisionError
    assert model.get_submodule(path) is original
    assert list(model.state_dict()) == keys
