"""Which rows go through a model together: the one place that decides it.

Rows are grouped by length, within a budget of rows, of tokens with their pads, and of logits
(rows x positions x vocabulary), which outgrow everything else on a model with a large vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LOGITS_AT_ONCE = 1 << 26  # numbers: 256 MiB in float32


@dataclass(frozen=True, slots=True)
class Budget:
    """What one batch may hold; a row that is too large alone is a batch alone.

    ``tokens`` counts pads too. ``pads``: how many pads a batch may hold; 0 puts only rows of one
    length together. ``logits``: how many logits; ``logits_per_token`` are made of each token and
    ``logits_per_row`` of each row.
    """

    rows: int = 256
    tokens: int = 1 << 15
    pads: int = 1 << 15
    logits: int = LOGITS_AT_ONCE
    logits_per_token: int = 0
    logits_per_row: int = 0

    def holds(self, rows: int, longest: int, tokens: int) -> bool:
        """Whether a batch of ``rows`` rows, the longest of ``longest`` tokens, with ``tokens``
        tokens that are no pads, keeps to the budget."""
        padded = rows * longest
        return (
            rows <= self.rows
            and padded <= self.tokens
            and padded - tokens <= self.pads
            and padded * self.logits_per_token + rows * self.logits_per_row <= self.logits
        )


def batches(lengths: Sequence[int], budget: Budget) -> list[list[int]]:
    """Row numbers in batches of like length, the shortest rows first; equal lengths in order."""
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
