"""The trainable change of a shard: values on its mask, applied to the input of the projection.

A training step needs only what the change adds to the output of the projection, and the gradient on
the mask. So the weight is never copied, only the masked entries of the gradient are kept, and the
optimiser sees ``[masked]`` values (WISE, arXiv 2405.14768, section 2.3.2).
"""

from __future__ import annotations

from typing import Any

import torch

from editors.methods.training.loops import finished


class _MaskedDeltaLinear(torch.autograd.Function):
    """``inputs @ dense.T``, whose gradient goes to ``values``: those of ``dense`` at ``index``."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        values: torch.Tensor,
        dense: torch.Tensor,
        index: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(inputs, index)
        ctx.dtype = values.dtype
        return inputs @ dense.T

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, torch.Tensor, None, None]:
        inputs, index = ctx.saved_tensors
        dense_gradient = gradient.flatten(0, -2).T @ inputs.flatten(0, -2)  # [out, in]
        return None, dense_gradient.flatten()[index].to(ctx.dtype), None, None


class MaskedDelta:
    """The values of a shard during training.

    ``values``: float32 ``[masked]``, a leaf that an optimiser may change in place. They are rounded
    to the dtype of the base before they are applied, as they will be when the base answers.
    """

    def __init__(
        self, entries: torch.Tensor, start: torch.Tensor | None, like: torch.Tensor
    ) -> None:
        """``entries``: bool ``[out, in]``, the mask; ``start``: ``[masked]``, None for zeros;
        ``like``: the weight of the projection, which gives the device and the dtype."""
        device = like.device
        self._index = entries.to(device).flatten().nonzero().squeeze(1)
        initial = torch.zeros(len(self._index), device=device) if start is None else start
        self.values = initial.to(device, torch.float32, copy=True).requires_grad_()
        self._dense = torch.zeros(entries.shape, dtype=like.dtype, device=device)
        self._written = -1  # the version of ``values`` that ``_dense`` holds

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """``[..., in]`` -> ``[..., out]``: what the change adds to the output of the projection.
        Gradients flow to ``values``."""
        side: torch.Tensor = _MaskedDeltaLinear.apply(  # type: ignore[no-untyped-call]
            inputs, self.values, self.delta(), self._index
        )
        return side

    def delta(self) -> torch.Tensor:
        """``[out, in]``: the change, zero outside the mask, in the dtype of the base. Valid until
        ``values`` change."""
        if self._written != self.values._version:
            self._dense.view(-1)[self._index] = self.rounded()
            self._written = self.values._version
        return self._dense

    def rounded(self) -> torch.Tensor:
        """``[masked]``: the values in the dtype of the base."""
        return self.values.detach().to(self._dense.dtype)

    def result(self) -> torch.Tensor:
        """``[masked]``: the trained values, rounded, on the CPU.

        Raises:
            EditorError: a value is not finite.
        """
        return finished(self.values, self._dense.dtype).cpu()
