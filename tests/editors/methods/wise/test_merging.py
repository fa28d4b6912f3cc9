"""The algebra of TIES (WISE Eq. 8) and of the linear merge."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from editors.methods.wise.merging import MERGES, linear, ties

# Small integers: sums are exact, and zeros, ties and conflicts are common.
entries = st.integers(-6, 6).map(float)


@st.composite
def deltas(draw: Any, least: int = 1) -> list[torch.Tensor]:
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 4)))
    count = draw(st.integers(least, 4))
    size = shape[0] * shape[1]
    lists = st.lists(entries, min_size=size, max_size=size)
    return [torch.tensor(draw(lists)).view(shape) for _ in range(count)]


def by_hand(values: list[float]) -> float:
    """What TIES makes of one entry's values."""
    total = sum(values)
    agreeing = [v for v in values if v * total > 0]
    return sum(agreeing) / len(agreeing) if agreeing else 0.0


@given(deltas())
def test_each_entry_is_the_mean_of_those_that_agree_with_the_elected_sign(
    several: list[torch.Tensor],
) -> None:
    columns = torch.stack([delta.flatten() for delta in several]).T.tolist()
    wanted = torch.tensor([by_hand(column) for column in columns])
    torch.testing.assert_close(ties(several).flatten(), wanted)


@given(deltas(least=2))
def test_an_entry_of_one_delta_alone_keeps_its_full_value(several: list[torch.Tensor]) -> None:
    owner = torch.randint(
        0, len(several), several[0].shape, generator=torch.Generator().manual_seed(0)
    )
    disjoint = [torch.where(owner == n, delta, 0) for n, delta in enumerate(several)]
    assert torch.equal(ties(disjoint), sum(disjoint[1:], disjoint[0]))


@given(deltas(least=2), st.randoms())
def test_the_order_of_the_deltas_does_not_matter(several: list[torch.Tensor], random: Any) -> None:
    shuffled = list(several)
    random.shuffle(shuffled)
    for density in (1.0, 0.53):
        torch.testing.assert_close(ties(shuffled, density), ties(several, density))


@given(deltas(), st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_a_common_scale_passes_through(several: list[torch.Tensor], scale: float) -> None:
    assert torch.equal(ties([scale * delta for delta in several]), scale * ties(several))


@given(deltas(), st.integers(2, 4))
def test_a_common_weight_cancels(several: list[torch.Tensor], times: int) -> None:
    """Each delta given ``times`` over is each delta with ``times`` its weight."""
    torch.testing.assert_close(ties(several * times), ties(several))


@given(deltas())
def test_one_untrimmed_delta_is_merged_to_itself(several: list[torch.Tensor]) -> None:
    assert torch.equal(ties(several[:1]), several[0])
    assert torch.equal(linear(several[:1]), several[0])


@given(deltas())
def test_every_sign_can_be_mirrored(several: list[torch.Tensor]) -> None:
    assert torch.equal(ties([-delta for delta in several]), -ties(several))


def test_the_larger_side_of_a_conflict_wins_alone() -> None:
    three = [torch.tensor([3.0, 1.0]), torch.tensor([-1.0, -4.0]), torch.tensor([1.0, 1.0])]
    assert torch.equal(ties(three), torch.tensor([2.0, -4.0]))


@given(deltas(), st.sampled_from([0.25, 0.53, 0.9]))
def test_trimming_keeps_the_largest_entries_of_each_delta(
    several: list[torch.Tensor], density: float
) -> None:
    one = several[0]
    trimmed = ties([one], density)
    held, dropped = one[trimmed != 0].abs(), one[trimmed == 0].abs()
    assert torch.equal(trimmed[trimmed != 0], one[trimmed != 0])
    if len(held) and len(dropped):
        assert held.min() >= dropped.max()
    wanted = min(max(1, round(density * one.numel())), int((one != 0).sum()))
    assert int((trimmed != 0).sum()) >= wanted


@given(deltas())
def test_the_linear_merge_is_the_mean(several: list[torch.Tensor]) -> None:
    torch.testing.assert_close(linear(several), torch.stack(several).mean(0))


def test_merging_changes_no_input() -> None:
    two = [torch.randn(4, 5), torch.randn(4, 5)]
    copies = [delta.clone() for delta in two]
    for merged in MERGES.values():
        merged(two, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(two, copies, strict=True))
