"""Scores as pure functions: correct answers, rates with intervals, and retention by age."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from editors.inference.generation import Answer
from editors.text_matching import normalised

RESAMPLES = 1000


def is_right(answer: Answer, wanted: str) -> bool:
    """Whether ``answer`` equals ``wanted`` after normalisation, and stopped by itself."""
    return answer.stopped and normalised(answer.text) == normalised(wanted)


@dataclass(frozen=True, slots=True)
class Rate:
    """The mean ``value`` of ``n`` outcomes in [0, 1], with its 95 % bootstrap interval (``low``,
    ``high``). All are NaN if n is 0."""

    value: float
    n: int
    low: float
    high: float

    @staticmethod
    def of(outcomes: Sequence[float], seed: int = 0) -> Rate:
        """The mean of ``outcomes`` (each in [0, 1]), resampled ``RESAMPLES`` times."""
        n = len(outcomes)
        if n == 0:
            nan = float("nan")
            return Rate(nan, 0, nan, nan)
        values, counts = np.unique(np.asarray(outcomes, dtype=float), return_counts=True)
        value = float(values @ counts) / n
        if len(values) == 1:
            # A bootstrap of equal outcomes has no width, so the rule of three gives the interval.
            slack = min(1.0, 3 / n)
            return Rate(value, n, max(0.0, value - slack), min(1.0, value + slack))
        # The counts of the values in a resample have a multinomial distribution.
        draws = np.random.default_rng(seed).multinomial(n, counts / n, size=RESAMPLES)
        low, high = np.quantile(draws @ values / n, [0.025, 0.975])
        return Rate(value, n, float(low), float(high))

    @staticmethod
    def of_all(outcomes: Iterable[bool]) -> Rate:
        """The share of ``outcomes`` that are true."""
        return Rate.of([float(outcome) for outcome in outcomes])


@dataclass(frozen=True, slots=True)
class AgeBand:
    """The reliability of the edits that were followed by ``newer`` to ``older`` later edits."""

    newer: int
    older: int
    reliability: float


def retention(outcomes: Sequence[float], bands: int = 10) -> list[AgeBand]:
    """Reliability by age, in at most ``bands`` bands, the latest edits first. ``outcomes``: for
    each edit, in the order of editing."""
    n = len(outcomes)
    if n == 0:
        return []
    cuts = [round(i * n / min(bands, n)) for i in range(min(bands, n) + 1)]
    by_age = list(reversed(outcomes))
    return [
        AgeBand(start, stop - 1, sum(by_age[start:stop]) / (stop - start))
        for start, stop in pairwise(cuts)
    ]
