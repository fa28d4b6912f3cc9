"""Recorded states within a memory budget: what does not fit is kept in files and read again.

What a file gives back is bit for bit what was put in, so a budget changes no result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import safe_open
from safetensors.torch import save_file


class Spool:
    """Keeps named tensors: in memory up to ``budget`` bytes (None: all of them), then in files.

    The files lie in a temporary folder that goes with the spool, or with the process.
    """

    def __init__(self, budget: int | None = None) -> None:
        self._left = budget
        self._folder: TemporaryDirectory[str] | None = None
        self._files = 0

    def keep(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The same tensors, on the same device, to be read as often as needed."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if self._left is None or size <= self._left:
            if self._left is not None:
                self._left -= size
            return dict(tensors)
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="editcli-states-")
        self._files += 1
        path = Path(self._folder.name, f"{self._files}.safetensors")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        return _OnDisk(path, {name: str(tensor.device) for name, tensor in tensors.items()})


class _OnDisk(Mapping[str, torch.Tensor]):
    """Tensors of a file, read each time one is asked for."""

    def __init__(self, path: Path, devices: Mapping[str, str]) -> None:
        self._path, self._devices = path, devices

    def __getitem__(self, name: str) -> torch.Tensor:
        with safe_open(self._path, framework="pt", device=self._devices[name]) as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._devices)

    def __len__(self) -> int:
        return len(self._devices)
