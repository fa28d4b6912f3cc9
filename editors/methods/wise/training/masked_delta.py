"""The trainable change of a shard: values on its mask, applied to what the projection reads.

A step needs what the change adds to the projection's output, and its gradient on the mask. So the
weight itself is never copied, and of the gradient only the masked entries are kept; the optimiser
sees ``[masked]`` values (WISE section 2.3.2).
"""

from __future__ import annotations

from typing import Any

import torch

from editors.errors import EditorError


class _MaskedDeltaLinear(torch.autograd.Function):
    """``inputs @ dense.T``, whose gradient goes to the values that ``dense`` holds at ``index``."""

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
        whole = gradient.flatten(0, -2).T @ inputs.flatten(0, -2)  # [out, in]
        return None, whole.flatten()[index].to(ctx.dtype), None, None


class MaskedDelta:
    """The values of a shard while they are trained.

    ``values``: float32 ``[masked]``, a leaf that an optimiser may change in place. What is applied
    is their rounding to the dtype that the base computes in, which is all that the base will see.
    """

    def __init__(
        self, entries: torch.Tensor, start: torch.Tensor | None, like: torch.Tensor
    ) -> None:
        """``entries``: bool ``[out, in]``, the mask's; ``start``: ``[masked]``, None for zeros;
        ``like``: the projection's weight, whose device and dtype are taken."""
        device = like.device
        self._index = entries.to(device).flatten().nonzero().squeeze(1)
        first = torch.zeros(len(self._index), device=device) if start is None else start
        self.values = first.to(device, torch.float32, copy=True).requires_grad_()
        self._dense = torch.zeros(entries.shape, dtype=like.dtype, device=device)
        self._written = -1  # the version of the values that the dense form holds

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """``[..., in]`` -> ``[..., out]``: what the change adds; gradients flow to ``values``."""
        side: torch.Tensor = _MaskedDeltaLinear.apply(  # type: ignore[no-untyped-call]
            inputs, self.values, self.delta(), self._index
        )
        return side

    def delta(self) -> torch.Tensor:
        """``[out, in]``, zero outside the mask, in the base's dtype; valid until values change."""
        if self._written != self.values._version:
            self._dense.view(-1)[self._index] = self.rounded()
            self._written = self.values._version
        return self._dense

    def rounded(self) -> torch.Tensor:
        """``[masked]``: the values in the base's dtype."""
        return self.values.detach().to(self._dense.dtype)

    def result(self) -> torch.Tensor:
        """``[masked]``: what training has made of the values, rounded, in main memory.

        Raises:
            EditorError: they are no numbers.
        """
        values = self.rounded()
        if not bool(values.isfinite().all()):
            raise EditorError(
                "training gave values that are no numbers",
                "a smaller `learning_rate` (`editcli init --set`), or `--dtype float32`",
            )
        return values.cpu()
