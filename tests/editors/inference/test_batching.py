"""The one batcher: every row once, within every limit of the budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from editors.inference.batching import Budget, batches

LENGTHS = st.lists(st.integers(1, 40), max_size=60)
BUDGETS = st.builds(
    Budget,
    rows=st.integers(1, 12),
    tokens=st.integers(1, 200),
    pads=st.integers(0, 30),
    logits=st.integers(1, 400),
    logits_per_token=st.integers(0, 8),
    logits_per_row=st.integers(0, 50),
)


@given(LENGTHS, BUDGETS)
def test_every_row_is_in_one_batch_within_the_budget(lengths: list[int], budget: Budget) -> None:
    parts = batches(lengths, budget)
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    for part in parts:
        of_part = [lengths[row] for row in part]
        if len(part) > 1:  # a row that is too large alone is a batch alone
            assert budget.holds(len(part), max(of_part), sum(of_part))


@given(LENGTHS, BUDGETS)
def test_batches_go_from_short_to_long_and_keep_the_order_of_equals(
    lengths: list[int], budget: Budget
) -> None:
    flat = [row for part in batches(lengths, budget) for row in part]
    assert flat == sorted(range(len(lengths)), key=lambda row: (lengths[row], row))


@given(LENGTHS)
def test_without_pads_only_rows_of_one_length_go_together(lengths: list[int]) -> None:
    for part in batches(lengths, Budget(pads=0)):
        assert len({lengths[row] for row in part}) == 1


def test_a_large_vocabulary_makes_smaller_batches() -> None:
    lengths = [10] * 64
    small, large = (
        len(batches(lengths, Budget(logits_per_token=words))[0]) for words in (1000, 128_256)
    )
    assert small == 64
    assert large == 2**26 // (10 * 128_256)


@given(LENGTHS, BUDGETS)
def test_the_same_lengths_give_the_same_batches(lengths: list[int], budget: Budget) -> None:
    assert batches(lengths, budget) == batches(list(lengths), budget)
