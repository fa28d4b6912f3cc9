"""A linear map of a model: its path, the layout of its weight, and its values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from editors.errors import StateMismatch, UnsupportedArchitecture

ELSEWHERE = "a decoder that is made of attention and MLP blocks can be edited"


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear map ``x -> W x + b`` at ``path``, for both layouts of a stored weight.

    ``transposed``: the module stores ``[in, out]`` (Conv1D) rather than ``[out, in]``. This follows
    from the class of the module, as the shape of a square weight does not tell. If a module wraps
    the original as ``base_layer``, the original is read, so all values are those of the base.
    """

    path: str
    in_features: int
    out_features: int
    transposed: bool

    @classmethod
    def at(cls, model: nn.Module, path: str) -> Projection:
        """The projection at ``path``.

        Raises:
            UnsupportedArchitecture: there is no module at ``path``, or it is not linear.
        """
        try:
            module = unwrapped(model.get_submodule(path))
        except AttributeError:
            raise UnsupportedArchitecture(f"the model has no module {path!r}", ELSEWHERE) from None
        widths = widths_of(module)
        if widths is None:
            raise UnsupportedArchitecture(
                f"{path} is a {type(module).__name__}, not a linear projection", ELSEWHERE
            )
        return cls(path, *widths, isinstance(module, Conv1D))

    def module(self, model: nn.Module) -> nn.Module:
        """The module at ``path`` now, wrapper included.

        Raises:
            StateMismatch: the model has no such module.
        """
        try:
            return model.get_submodule(self.path)
        except AttributeError:
            raise StateMismatch(
                f"the model has no module {self.path!r}: it is not the model the projection is of"
            ) from None

    def weight(self, model: nn.Module) -> torch.Tensor:
        """The weight ``[out, in]``: a detached view of the model's own tensor, in its dtype.

        Raises:
            StateMismatch: the model has no such module, or its weight has another shape.
            UnsupportedArchitecture: the weight is quantised, sharded or not loaded.
        """
        stored = self._stored(model)
        if not stored.is_floating_point() or stored.element_size() < 2:  # int8, float8, packed
            raise UnsupportedArchitecture(
                f"the weight of {self.path} is quantised ({_dtype(stored)})",
                "load the model without quantisation",
            )
        weight = stored.T if self.transposed else stored
        if tuple(weight.shape) != (self.out_features, self.in_features):
            raise StateMismatch(
                f"the weight of {self.path} is {tuple(weight.shape)} where "
                f"{(self.out_features, self.in_features)} was expected"
            )
        return weight

    def bias(self, model: nn.Module) -> torch.Tensor | None:
        """The bias ``[out]``, a detached view, or None. Raises the errors of :meth:`module`."""
        bias = getattr(unwrapped(self.module(model)), "bias", None)
        return bias.detach() if isinstance(bias, torch.Tensor) else None

    def digest(self, model: nn.Module) -> str:
        """The hex SHA-256 of dtype, shape and bytes of the weight as stored, and of the bias.

        The digest does not depend on the device. Of a quantised weight, the packed bytes are
        hashed. Otherwise raises the errors of :meth:`weight`.
        """
        sha = hashlib.sha256()
        for tensor in (self._stored(model), self.bias(model)):
            if tensor is not None:
                sha.update(f"{_dtype(tensor)}{tuple(tensor.shape)}".encode())
                # The bytes are read as uint8, as numpy has no bfloat16.
                flat = tensor.cpu().contiguous().reshape(-1)
                sha.update(flat.view(torch.uint8).numpy().data)
        return sha.hexdigest()

    def _stored(self, model: nn.Module) -> torch.Tensor:
        module = unwrapped(self.module(model))
        stored = getattr(module, "weight", None)
        if not isinstance(stored, torch.Tensor):
            raise UnsupportedArchitecture(
                f"{self.path} is a {type(module).__name__} without a weight tensor"
            )
        if stored.is_meta:
            raise UnsupportedArchitecture(
                f"the weight of {self.path} is not in memory", "load the model without offloading"
            )
        if hasattr(stored, "device_mesh"):
            raise UnsupportedArchitecture(
                f"the weight of {self.path} is sharded over several devices",
                "load the model without tensor parallelism",
            )
        return stored.detach()


def unwrapped(module: nn.Module) -> nn.Module:
    """``module`` itself, or the innermost module that it wraps as ``base_layer``."""
    while isinstance(inner := getattr(module, "base_layer", None), nn.Module):
        module = inner
    return module


def widths_of(module: nn.Module) -> tuple[int, int] | None:
    """The widths (in, out) of a linear module, None for any other module.

    They are read from attributes, as the shape of a packed weight tells nothing.
    """
    if isinstance(module, Conv1D):
        return int(module.nx), int(module.nf)
    inputs, outputs = getattr(module, "in_features", None), getattr(module, "out_features", None)
    return (inputs, outputs) if isinstance(inputs, int) and isinstance(outputs, int) else None


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
