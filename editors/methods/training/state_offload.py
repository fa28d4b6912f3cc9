"""Recorded states within a memory budget: what does not fit is kept in files and read again.

On an accelerator only a little memory is taken; the rest of the states is kept in the machine's
own. What comes back is bit for bit what was put in, so a budget changes no result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import safe_open
from safetensors.torch import save_file

ON_DEVICE_BYTES = 1 << 28  # that stay in an accelerator's memory
GATHER_FRACTION = 4  # rows are gathered on the host where at most one in four is needed


class StateOffload:
    """Keeps named tensors: in memory up to ``budget`` bytes (None: all of them), then in files.

    Those of an accelerator stay there up to ``ON_DEVICE_BYTES``, which the budget does not count.
    The files lie in a temporary folder that goes with the last tensors in it.
    """

    def __init__(self, budget: int | None = None) -> None:
        self._left, self._left_on_device = budget, ON_DEVICE_BYTES
        self._folder: TemporaryDirectory[str] | None = None
        self._files = 0

    def keep(self, tensors: Mapping[str, torch.Tensor]) -> OffloadedTensors:
        """The same tensors, on the same device, to be read as often as needed."""
        sizes = [tensor.numel() * tensor.element_size() for tensor in tensors.values()]
        on_device = any(tensor.device.type != "cpu" for tensor in tensors.values())
        if on_device and sum(sizes) <= self._left_on_device:
            self._left_on_device -= sum(sizes)
            return OffloadedTensors.of(tensors)
        # Pinned memory is handed out in powers of two.
        size = sum(1 << (size - 1).bit_length() for size in sizes) if on_device else sum(sizes)
        if self._left is None or size <= self._left:
            if self._left is not None:
                self._left -= size
            return OffloadedTensors.of(tensors, _in_memory if on_device else None)
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="editcli-states-")
        self._files += 1
        name_of = f"{self._files}.safetensors"
        path = Path(self._folder.name, name_of)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        readers = {name: partial(_in_file, self._folder, name_of, name) for name in tensors}
        return OffloadedTensors(readers, _devices(tensors))


class OffloadedTensors(Mapping[str, torch.Tensor]):
    """Tensors that are read where they are kept, each time one is asked for."""

    def __init__(
        self, read: Mapping[str, Callable[[], torch.Tensor]], devices: Mapping[str, torch.device]
    ) -> None:
        self._read, self._devices = read, devices

    @staticmethod
    def of(
        tensors: Mapping[str, torch.Tensor],
        moved: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> OffloadedTensors:
        """``tensors``, held as they are or as what ``moved`` makes of each."""
        held = {name: moved(tensor) if moved else tensor for name, tensor in tensors.items()}
        readers = {name: partial(held.__getitem__, name) for name in held}
        return OffloadedTensors(readers, _devices(tensors))

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._read[name]().to(self._devices[name], non_blocking=True)

    def part(self, name: str, rows: Sequence[int], columns: int) -> torch.Tensor:
        """Some rows of a tensor, and its first columns.

        Gathered on the host if at most one row in ``GATHER_FRACTION`` is needed; otherwise the
        whole tensor is copied to the device first.
        """
        held = self._read[name]()
        if len(rows) * GATHER_FRACTION > len(held):
            held = held.to(self._devices[name], non_blocking=True)
        return held[list(rows), :columns].to(self._devices[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)


def _devices(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.device]:
    return {name: tensor.device for name, tensor in tensors.items()}


def _in_memory(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of an accelerator in the machine's memory, pinned: it comes back several times
    faster."""
    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda).copy_(tensor)


def _in_file(folder: TemporaryDirectory[str], file_name: str, name: str) -> torch.Tensor:
    # The folder itself is held, since it is removed once nothing refers to it.
    with safe_open(Path(folder.name, file_name), framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
    return tensor
