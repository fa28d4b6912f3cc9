"""Scores as pure functions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editors.evaluation.metrics import Rate, retention

outcomes = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=60)


@given(outcomes)
def test_a_rate_lies_in_its_interval_within_zero_and_one(values: list[float]) -> None:
    rate = Rate.of(values)
    assert rate.n == len(values)
    assert rate.value == pytest.approx(sum(values) / len(values))
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    assert Rate.of(values) == rate, "the same outcomes give the same interval"


@given(outcomes)
def test_the_value_does_not_depend_on_the_order(values: list[float]) -> None:
    assert Rate.of(values[::-1]).value == pytest.approx(Rate.of(values).value)


def test_equal_outcomes_still_have_an_interval() -> None:
    assert Rate.of([1.0] * 100) == Rate(1.0, 100, 0.97, 1.0)
    assert Rate.of([0.0] * 100) == Rate(0.0, 100, 0.0, 0.03)
    assert Rate.of([1.0]).low == 0


def test_the_interval_is_about_as_wide_as_theory_says() -> None:
    rate = Rate.of([1.0] * 200 + [0.0] * 200)
    sigma = (0.25 / 400) ** 0.5
    assert rate.high - rate.low == pytest.approx(2 * 1.96 * sigma, rel=0.15)


def test_a_rate_of_nothing_is_not_a_number() -> None:
    rate = Rate.of([])
    assert rate.n == 0
    assert all(math.isnan(v) for v in (rate.value, rate.low, rate.high))


@given(st.lists(st.sampled_from([0.0, 1.0]), max_size=120), st.integers(1, 12))
def test_bands_cover_every_age_once_and_average_to_the_whole(
    values: list[float], bands: int
) -> None:
    by_age = retention(values, bands)
    ages = [age for band in by_age for age in range(band.newer, band.older + 1)]
    assert ages == list(range(len(values)))
    weighted = sum(band.reliability * (band.older - band.newer + 1) for band in by_age)
    assert weighted == pytest.approx(sum(values))
    assert len(by_age) == min(bands, len(values))


def test_the_youngest_band_comes_first() -> None:
    by_age = retention([0.0] * 10 + [1.0] * 10, bands=2)
    assert [(b.newer, b.older, b.reliability) for b in by_age] == [(0, 9, 1.0), (10, 19, 0.0)]
