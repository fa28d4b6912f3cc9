"""Scores as pure functions: rates with intervals, and retention by age."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Rate:
    """The mean ``value`` of ``n`` outcomes in [0, 1], with its 95 % bootstrap interval (``low``,
    ``high``). All are NaN if n is 0."""

    value: float
    n: int
    low: float
    high: float

    @staticmethod
    def of(outcomes: Iterable[float]) -> Rate:
        """The mean of ``outcomes`` (true, false, or a number in [0, 1]), resampled ``RESAMPLES``
        times."""
        values, counts = np.unique(np.fromiter(outcomes, float), return_counts=True)
        n = int(counts.sum())
        if n == 0:
            return Rate(math.nan, 0, math.nan, math.nan)
        value = float(values @ counts) / n
        if len(values) == 1:
            # A bootstrap of equal outcomes has no width, so the rule of three gives the interval.
            slack = min(1.0, 3 / n)
            return Rate(value, n, max(0.0, value - slack), min(1.0, value + slack))
        # The counts of the values in a resample have a multinomial distribution.
        draws = np.random.default_rng(0).multinomial(n, counts / n, size=RESAMPLES)
        low, high = np.quantile(draws @ values / n, [0.025, 0.975])
        return Rate(value, n, float(low), float(high))


@dataclass(frozen=True, slots=True)
class AgeBand:
    """The reliability of the edits that were followed by ``newer`` to ``older`` later edits."""

    newer: int
    older: int
    reliability: float


def retention(outcomes: Sequence[float], bands: int = 10) -> list[AgeBand]:
    """Reliability by age, in at most ``bands`` bands, the latest edits first. ``outcomes``: for
    each edit, in the order of editing."""
    by_age, n = outcomes[::-1], len(outcomes)
    bands = min(bands, n)
    cuts = [0, *(round(i * n / bands) for i in range(1, bands + 1))]
    return [
        AgeBand(start, stop - 1, sum(by_age[start:stop]) / (stop - start))
        for start, stop in pairwise(cuts)
    ]
