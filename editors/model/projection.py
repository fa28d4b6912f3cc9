"""A linear map of a model: where it is, which way round its weight is stored, and its values."""

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
    """A linear map ``x -> W x + b`` at ``path``, whichever way round its weight is stored.

    ``transposed``: the module stores ``[in, out]`` (Conv1D) rather than ``[out, in]``. The class
    decides, not the shape, which says nothing when the weight is square. A module that wraps the
    original as ``base_layer`` is looked through, so the answers are those of the base model.
    """

    path: str
    in_features: int
    out_features: int
    transposed: bool
    has_bias: bool

    @classmethod
    def at(cls, model: nn.Module, path: str) -> Projection:
        """The projection at ``path``.

        Raises:
            UnsupportedArchitecture: no module there, or one that is not linear.
        """
        try:
            module = unwrapped(model.get_submodule(path))
        except AttributeError:
            raise UnsupportedArchitecture(f"the model has no module {path!r}", ELSEWHERE) from None
        widths = widths_of(module)
        if widths is None:
            raise UnsupportedArchitecture(
                f"{path} is a {type(module).__name__}, not a linear projection",
                ELSEWHERE,
            )
        has_bias = getattr(module, "bias", None) is not None
        return cls(path, widths[0], widths[1], isinstance(module, Conv1D), has_bias)

    def module(self, model: nn.Module) -> nn.Module:
        """What sits at ``path`` now, wrapper included.

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
        """The weight as ``[out, in]``: a detached view of the model's own memory, in its dtype.

        Raises:
            StateMismatch: the model has no such module, or one of another shape.
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
        """The bias as ``[out]``, a detached view, or None. Raises as ``module``."""
        bias = getattr(unwrapped(self.module(model)), "bias", None)
        return bias.detach() if isinstance(bias, torch.Tensor) else None

    def digest(self, model: nn.Module) -> str:
        """Hex SHA-256 over dtype, shape and bytes of the weight as stored, and of the bias.

        Equal for equal values wherever the tensors live. Raises as ``weight``, but takes
        quantised weights: their packed bytes are hashed.
        """
        sha = hashlib.sha256()
        for tensor in (self._stored(model), self.bias(model)):
            if tensor is None:
                continue
            sha.update(f"{_dtype(tensor)}{tuple(tensor.shape)}".encode())
            # Bytes through uint8: numpy has no bfloat16.
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
    """The innermost module of one that wraps another as ``base_layer``."""
    while isinstance(inner := getattr(module, "base_layer", None), nn.Module):
        module = inner
    return module


def widths_of(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear module, None for any other.

    Attributes are asked before the weight, whose shape means nothing once it is packed.
    """
    if isinstance(module, Conv1D):
        return int(module.nx), int(module.nf)
    inputs, outputs = getattr(module, "in_features", None), getattr(module, "out_features", None)
    return (inputs, outputs) if isinstance(inputs, int) and isinstance(outputs, int) else None


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
