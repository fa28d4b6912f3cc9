"""Named tensors as safetensors bytes: equal bytes for equal tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from editors.errors import StateMismatch


def to_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """``tensors`` as safetensors bytes. The only metadata is ``{"format": "pt"}``: the order of
    several keys, and so the bytes, would differ from run to run."""
    plain = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    return save(plain, metadata={"format": "pt"})


def from_bytes(data: bytes) -> dict[str, torch.Tensor]:
    """The tensors that :func:`to_bytes` wrote, on the CPU; raises StateMismatch for other data."""
    try:
        return load(data)
    except (SafetensorError, ValueError) as error:
        raise StateMismatch(f"saved tensors cannot be read: {error}", "`editcli verify`") from error
