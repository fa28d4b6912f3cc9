"""Masks, and shards as tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editors.errors import StateMismatch
from editors.methods.wise.shards import DRAWN_AT_ONCE, Mask, MergedShards, Shard
from editors.model.tensor_files import to_bytes

SHAPE = (400, 500)
N = SHAPE[0] * SHAPE[1]


def shard(shape: tuple[int, int], ratio: float = 0.5, seed: int = 0) -> Shard:
    mask = Mask(shape, ratio, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    values = torch.randn(int(mask.entries().sum()), generator=generator)
    return Shard((("a", "b"),), mask, values, 3.25)


# --- masks ------------------------------------------------------------------------------------


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
    """Whatever the values, and with no decay anywhere."""
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    some = shard(SHAPE, 0.2)
    inside = some.support.entries()
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
    values = torch.randn(int(mask.entries().sum())).to(dtype)
    before = Shard((("x",),), mask, values, threshold)
    after = Shard.from_tensors((("x",),), before.tensors())
    assert after.support == before.support
    assert after.values.dtype == dtype
    assert torch.equal(after.values, before.values)
    assert (after.groups, after.threshold) == ((("x",),), threshold)
    assert to_bytes(after.tensors()) == to_bytes(before.tensors())


def test_the_facts_of_a_shard_are_those_of_its_groups_in_the_order_in_which_they_came() -> None:
    some = Shard((("b", "a"), ("c", "a"), ("b",)), Mask((2, 2), 1.0, 0), torch.zeros(4))
    assert some.facts == ("b", "a", "c")


def test_merged_shards_are_what_they_were_made_of() -> None:
    change = torch.randn(3, 4)
    merged = MergedShards(change, 2.5)
    assert torch.equal(merged.delta(), change)
    assert merged.threshold == 2.5


@pytest.mark.parametrize("name", ["shape", "ratio", "seed", "values", "threshold"])
def test_a_damaged_shard_is_refused(name: str) -> None:
    tensors = shard((6, 7)).tensors()
    without = {k: v for k, v in tensors.items() if k != name}
    with pytest.raises(StateMismatch):
        Shard.from_tensors((), without)
    with pytest.raises(StateMismatch):
        Shard.from_tensors((), {**tensors, name: tensors[name][:-1]}).delta()


@pytest.mark.parametrize("values", [torch.ones(3, dtype=torch.int64), torch.ones(3, 1)])
def test_values_of_another_kind_are_refused(values: torch.Tensor) -> None:
    tensors = {**shard((6, 7)).tensors(), "values": values}
    with pytest.raises(StateMismatch, match="values are"):
        Shard.from_tensors((), tensors)
