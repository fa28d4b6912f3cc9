"""Named tensors as bytes: safetensors, the same bytes for the same tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from editors.errors import StateMismatch


def to_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Tensors as safetensors bytes, with the header ``{"format": "pt"}`` alone: with more keys
    their order, and so the bytes, would differ from run to run."""
    plain = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    return save(plain, metadata={"format": "pt"})


def from_bytes(data: bytes) -> dict[str, torch.Tensor]:
    """What :func:`to_bytes` wrote; raises StateMismatch for anything else."""
    try:
        return load(data)
    except (SafetensorError, ValueError) as error:
        raise StateMismatch(f"saved tensors cannot be read: {error}", "`editcli verify`") from error
