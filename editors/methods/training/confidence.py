"""The probabilities of the labels of recorded rows, and whether the labels are the greedy
answer."""

from __future__ import annotations

import torch

from editors.methods.training.records import Record


def least_by_row(record: Record, values: torch.Tensor) -> list[float]:
    """For each row, the smallest of the ``values`` ``[labels]``, at most 1 each, of its labels."""
    rows = record.labelled[0].cpu()
    smallest = torch.ones(record.rows).scatter_reduce(0, rows, values.cpu(), "amin")
    result: list[float] = smallest.tolist()
    return result


def probabilities(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """float32 ``[labels]``: the probability of each of ``labels`` ``[labels]``, from ``logits``
    ``[labels, vocab]``."""
    return logits.detach().float().softmax(-1).gather(1, labels[:, None])[:, 0]


def unsure_rows(
    record: Record, logits: torch.Tensor, labels: torch.Tensor, confidence: float
) -> list[int]:
    """The numbers of the rows with a label whose probability is below ``confidence``, or NaN.

    ``logits``: ``[labels, vocab]``; ``labels``: int64 ``[labels]``.
    """
    least = least_by_row(record, probabilities(logits, labels))
    return [row for row, probability in enumerate(least) if not probability >= confidence]


def rows_answered(record: Record, logits: torch.Tensor, labels: torch.Tensor) -> list[bool]:
    """For each row, whether all its labels are the likeliest tokens.

    ``logits``: ``[labels, vocab]``; ``labels``: int64 ``[labels]``.
    """
    return [*map(bool, least_by_row(record, (logits.argmax(-1) == labels).float()))]
