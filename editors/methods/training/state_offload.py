"""Recorded states within a memory budget: states that exceed it are kept in files.

On an accelerator, the states take little of the device memory; the rest is kept in host memory.
States are read back bit for bit, so a budget changes no result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import safe_open
from safetensors.torch import save_file

ON_DEVICE_BYTES = 1 << 28  # of states that stay in the memory of an accelerator
STATES = "states.safetensors"
GATHER_FRACTION = 4  # rows are gathered on the host if at most one in four is needed


class StateOffload:
    """Keeps named tensors: in host memory up to ``budget`` bytes (None: all of them), then in
    files.

    Up to ``ON_DEVICE_BYTES`` of the tensors of an accelerator stay on it; the budget does not count
    these. A file is in a temporary folder, which is removed with the tensors in it.
    """

    def __init__(self, budget: int | None = None) -> None:
        self._bytes_left: float = inf if budget is None else budget
        self._device_bytes_left = ON_DEVICE_BYTES

    def keep(self, tensors: Mapping[str, torch.Tensor]) -> OffloadedTensors:
        """The same tensors, which can be read as often as needed, on the same device."""
        sizes = [tensor.nbytes for tensor in tensors.values()]
        on_device = any(tensor.device.type != "cpu" for tensor in tensors.values())
        if on_device and sum(sizes) <= self._device_bytes_left:
            self._device_bytes_left -= sum(sizes)
            return OffloadedTensors.of(tensors)
        # Pinned memory is allocated in powers of two.
        size = sum(1 << (size - 1).bit_length() for size in sizes) if on_device else sum(sizes)
        if size <= self._bytes_left:
            self._bytes_left -= size
            return OffloadedTensors.of(tensors, _in_memory if on_device else lambda tensor: tensor)
        folder = TemporaryDirectory(prefix="editcli-states-")
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, Path(folder.name, STATES))
        readers = {name: partial(_in_file, folder, name) for name in tensors}
        return OffloadedTensors(readers, _devices(tensors))


class OffloadedTensors(Mapping[str, torch.Tensor]):
    """Named tensors that are read from memory or a file at each access."""

    def __init__(
        self, read: Mapping[str, Callable[[], torch.Tensor]], devices: Mapping[str, torch.device]
    ) -> None:
        self._read, self._devices = read, devices

    @staticmethod
    def of(
        tensors: Mapping[str, torch.Tensor],
        moved: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor,
    ) -> OffloadedTensors:
        """``tensors``, kept in memory as they are, or as returned by ``moved``. At each access they
        come back to the device of ``tensors``."""
        kept = {name: moved(tensor) for name, tensor in tensors.items()}
        readers = {name: partial(kept.__getitem__, name) for name in kept}
        return OffloadedTensors(readers, _devices(tensors))

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._read[name]().to(self._devices[name], non_blocking=True)

    def part(self, name: str, rows: Sequence[int], columns: int) -> torch.Tensor:
        """Some rows of tensor ``name``, and their first ``columns``.

        The rows are gathered on the host if at most one in ``GATHER_FRACTION`` is needed. Otherwise
        the whole tensor is copied to the device first, which is then faster.
        """
        whole = self._read[name]()
        if len(rows) * GATHER_FRACTION > len(whole):
            whole = whole.to(self._devices[name], non_blocking=True)
        return whole[list(rows), :columns].to(self._devices[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)


def _devices(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.device]:
    return {name: tensor.device for name, tensor in tensors.items()}


def _in_memory(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of an accelerator's tensor in host memory. Pinned memory is copied back several times
    faster."""
    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda).copy_(tensor)


def _in_file(folder: TemporaryDirectory[str], name: str) -> torch.Tensor:
    # The argument is the folder object, as the folder is removed once nothing refers to it.
    with safe_open(Path(folder.name, STATES), framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
    return tensor
