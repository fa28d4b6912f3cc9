"""How sure a model is of the labels of recorded rows, and whether it gives them."""

from __future__ import annotations

import torch

from editors.methods.training.records import Record


def least_by_row(part: Record, of_labels: torch.Tensor) -> list[float]:
    """For each row, the smallest of its labels' values ``[labels]``, which are at most 1."""
    rows = part.labelled[0].cpu()
    smallest = torch.ones(part.rows).scatter_reduce(0, rows, of_labels.cpu(), "amin")
    values: list[float] = smallest.tolist()
    return values


def probabilities(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """float32 ``[labels]``: the probability of each of ``labels`` by ``logits`` ``[labels,
    vocab]``."""
    return logits.detach().float().softmax(-1).gather(1, labels[:, None])[:, 0]


def unsure_rows(
    part: Record, logits: torch.Tensor, labels: torch.Tensor, wanted: float
) -> list[int]:
    """Rows with a label below the probability ``wanted``, or NaN, in order."""
    least = least_by_row(part, probabilities(logits, labels))
    return [row for row, probability in enumerate(least) if not probability >= wanted]


def rows_answered(part: Record, logits: torch.Tensor, labels: torch.Tensor) -> list[bool]:
    """For each row, whether all its labels are the likeliest tokens."""
    return [*map(bool, least_by_row(part, (logits.argmax(-1) == labels).float()))]
