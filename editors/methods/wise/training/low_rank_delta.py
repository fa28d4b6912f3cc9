"""The trainable change of a shard of low rank, applied to the input of the projection."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from editors.methods.training.loops import finished
from editors.methods.wise.shards import LowRank


class LowRankDelta:
    """The values of a shard of low rank during training.

    ``values``: float32 ``[count]``, a leaf that an optimiser may change in place. They are rounded
    to the dtype of the base before they are applied, as they will be when the base answers.
    """

    def __init__(self, support: LowRank, start: torch.Tensor, like: torch.Tensor) -> None:
        """``start``: ``[count]``; ``like``: the weight of the projection, which gives the device
        and the dtype."""
        self._support, self._dtype = support, like.dtype
        self.values = start.to(like.device, torch.float32, copy=True).requires_grad_()

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """``[..., in]`` -> ``[..., out]``: what the change adds to the output of the projection.
        Gradients flow to ``values``."""
        up, down = self._support.factors(self.values.to(self._dtype))
        return F.linear(F.linear(inputs, down), up)

    def result(self) -> torch.Tensor:
        """``[count]``: the trained values, rounded, on the CPU.

        Raises:
            EditorError: a value is not finite.
        """
        return finished(self.values, self._dtype).cpu()
