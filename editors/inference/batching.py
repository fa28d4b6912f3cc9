"""Which rows go through a model together: every batch of the library is chosen here.

Rows are grouped by length, within a budget of rows, of tokens with pads, and of logits (rows x
positions x vocabulary), which take the most memory in a model with a large vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

LOGITS_AT_ONCE = 1 << 26  # numbers: 256 MiB in float32


@dataclass(frozen=True, slots=True)
class Budget:
    """What one batch may hold. A row that exceeds the budget is a batch by itself.

    ``tokens``: the largest number of tokens, pads included. ``pads``: the largest number of pads; 0
    allows only rows of equal length. ``logits``: the largest number of logits, of which each token
    has ``logits_per_token`` and each row ``logits_per_row``.
    """

    rows: int = 256
    tokens: int = 1 << 15
    pads: int = 1 << 15
    logits: int = LOGITS_AT_ONCE
    logits_per_token: int = 0
    logits_per_row: int = 0

    def holds(self, rows: int, longest: int, tokens: int) -> bool:
        """Whether a batch fits the budget: ``rows`` rows, of which the longest has ``longest``
        tokens, with ``tokens`` real tokens in all."""
        padded = rows * longest
        return (
            rows <= self.rows
            and padded <= self.tokens
            and padded - tokens <= self.pads
            and padded * self.logits_per_token + rows * self.logits_per_row <= self.logits
        )


def batches(lengths: Sequence[int], budget: Budget) -> list[list[int]]:
    """The row numbers in batches of similar length, the shortest rows first. Rows of equal length
    keep their order."""
    groups: list[list[int]] = []
    tokens = 0
    for row in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        length = lengths[row]
        if groups and budget.holds(len(groups[-1]) + 1, length, tokens + length):
            groups[-1].append(row)
            tokens += length
        else:
            groups.append([row])
            tokens = length
    return groups


def in_batches(
    lengths: Sequence[int], budget: Budget, run: Callable[[list[int]], Iterable[T]]
) -> list[T]:
    """For each row its result. ``run``: from the row numbers of a batch to one result for each."""
    results: dict[int, T] = {}
    for members in batches(lengths, budget):
        results.update(zip(members, run(members), strict=True))
    return [results[row] for row in range(len(lengths))]
