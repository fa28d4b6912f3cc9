"""Recorded states within a memory budget: what does not fit is kept in files and read again.

Of an accelerator's memory only a little is taken: what is more is kept in the machine's. What comes
back is bit for bit what was put in, so a budget changes no result.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import safe_open
from safetensors.torch import save_file

NEAR = 1 << 28  # bytes that stay in an accelerator's memory


class Spool:
    """Keeps named tensors: in memory up to ``budget`` bytes (None: all of them), then in files.

    Those of an accelerator stay there up to ``NEAR`` bytes, which the budget does not count.

    The files lie in a temporary folder that goes with the spool, or with the process.
    """

    def __init__(self, budget: int | None = None) -> None:
        self._left, self._near = budget, NEAR
        self._folder: TemporaryDirectory[str] | None = None
        self._files = 0

    def keep(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The same tensors, on the same device, to be read as often as needed."""
        sizes = [tensor.numel() * tensor.element_size() for tensor in tensors.values()]
        away = any(tensor.device.type != "cpu" for tensor in tensors.values())
        if away and sum(sizes) <= self._near:
            self._near -= sum(sizes)
            return dict(tensors)
        # Pinned memory is handed out in powers of two.
        size = sum(1 << (size - 1).bit_length() for size in sizes) if away else sum(sizes)
        if self._left is None or size <= self._left:
            if self._left is not None:
                self._left -= size
            return _in_memory(tensors) if away else dict(tensors)
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="editcli-states-")
        self._files += 1
        return _in_file(tensors, Path(self._folder.name, f"{self._files}.safetensors"))


def _in_memory(tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Tensors of an accelerator, kept in the machine's memory."""
    devices = {name: tensor.device for name, tensor in tensors.items()}
    kept = {
        # Pinned, copying is several times faster.
        name: torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda).copy_(tensor)
        for name, tensor in tensors.items()
    }
    return _Read(devices, lambda name: kept[name].to(devices[name], non_blocking=True))


def _in_file(tensors: Mapping[str, torch.Tensor], path: Path) -> Mapping[str, torch.Tensor]:
    devices = {name: tensor.device for name, tensor in tensors.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)

    def read(name: str) -> torch.Tensor:
        with safe_open(path, framework="pt", device=str(devices[name])) as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    return _Read(devices, read)


class _Read(Mapping[str, torch.Tensor]):
    """Tensors that are read each time one is asked for."""

    def __init__(self, names: Collection[str], read: Callable[[str], torch.Tensor]) -> None:
        self._names, self._read = names, read

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
