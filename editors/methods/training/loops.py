"""What training loops share: which rows are confident, a step, and the result with its checks."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from editors.errors import EditorError
from editors.methods.training.records import Record


@dataclass(frozen=True, slots=True)
class Training:
    """The result of training the change of a projection.

    ``values``: the trained values, from :func:`finished`. ``iterations``: the steps taken.
    ``failed``: the numbers of the facts whose target is not answered with these values.
    ``threshold``: the smallest routing activation over the edits (infinite if not measured).
    """

    values: torch.Tensor
    iterations: int
    failed: tuple[int, ...]
    threshold: float = float("inf")

    def counts(self) -> dict[str, torch.Tensor]:
        """The iterations and the failed facts, as tensors to save."""
        return {
            "iterations": torch.tensor(self.iterations),
            "failed": torch.tensor(self.failed, dtype=torch.long),
        }


def step(optimizer: torch.optim.Optimizer, values: torch.Tensor, loss: torch.Tensor) -> None:
    """One step of ``optimizer`` on ``values``."""
    optimizer.zero_grad()
    torch.autograd.backward(loss, inputs=[values])  # not the base's parameters
    optimizer.step()


def finished(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``values`` in ``dtype``, that of the base.

    Raises:
        EditorError: a value is not finite.
    """
    rounded = values.detach().to(dtype)
    if not bool(rounded.isfinite().all()):
        raise EditorError(
            "training failed: some of the trained values are not finite numbers",
            "a smaller `learning_rate` (`editcli init --set`), or `--dtype float32`",
        )
    return rounded


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
