"""The edited projection with its side memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

import torch
import torch.nn.functional as F
from torch import nn

from editors.inference.calls import running_forward
from editors.inference.row_changes import with_changes
from editors.methods.wise.shards import Memory

MAX_UNPACKED = 16  # side memories whose matrices are in memory; one is unpacked when a row needs it

_Key = tuple[int, torch.device, torch.dtype]


class SideMemoryLinear(nn.Module):
    """A projection with its side memories. By the decision on its prompt, a row goes through the
    main memory (the projection) alone, or one side memory adds its change. A memory of low rank is
    two small products, as in an adapter of PEFT.

    Rows on the main memory alone have the output of the base module, bit for bit.
    """

    def __init__(self, base_layer: nn.Module, memories: Sequence[Memory]) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.train(base_layer.training)
        self._memories = list(memories)
        self._unpacked: OrderedDict[_Key, Sequence[torch.Tensor]] = OrderedDict()
        self._unpacking = Lock()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """``[rows, seq, in]`` -> ``[rows, seq, out]``, or the same with flattened rows.

        Raises:
            EditorError: ``inputs`` does not have the rows of the running forward.
        """
        main: torch.Tensor = self.base_layer(inputs)
        return with_changes(inputs, main, self._change)

    def _change(self, memory: int, inputs: torch.Tensor) -> torch.Tensor:
        for factor in reversed(self._factors(memory, inputs.device, inputs.dtype)):
            inputs = F.linear(inputs, factor)
        return inputs

    def _factors(
        self, memory: int, device: torch.device, dtype: torch.dtype
    ) -> Sequence[torch.Tensor]:
        key = (memory, device, dtype)
        with self._unpacking:
            if key not in self._unpacked:
                factors = self._memories[memory].factors()
                self._unpacked[key] = [factor.to(device, dtype) for factor in factors]
                # Keep as many as one forward needs, or each token would unpack them again.
                forward = running_forward()
                needed = len(forward.rows_of()) if forward is not None else 0
                if len(self._unpacked) > max(MAX_UNPACKED, needed):
                    self._unpacked.popitem(last=False)
            self._unpacked.move_to_end(key)
            return self._unpacked[key]
