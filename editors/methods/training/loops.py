"""What training loops share: a step, the check of what they end in, and their result."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from editors.errors import EditorError


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
