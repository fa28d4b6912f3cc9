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

MAX_DENSE = 16  # dense deltas in memory; a side memory is unpacked when a row needs it


class SideMemoryLinear(nn.Module):
    """A projection with its side memories. By the decision on its prompt, a row goes through the
    main memory (the projection) alone, or one side memory adds its change.

    Rows on the main memory alone have the output of the base module, bit for bit.
    """

    def __init__(self, base_layer: nn.Module, memories: Sequence[Memory]) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.train(base_layer.training)
        self._memories = list(memories)
        self._dense: OrderedDict[tuple[int, torch.device, torch.dtype], torch.Tensor] = (
            OrderedDict()
        )
        self._unpacking = Lock()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """``[rows, seq, in]`` -> ``[rows, seq, out]``, or the same with flattened rows.

        Raises:
            EditorError: ``inputs`` does not have the rows of the running forward.
        """
        main: torch.Tensor = self.base_layer(inputs)
        return with_changes(inputs, main, self._change)

    def _change(self, memory: int, inputs: torch.Tensor) -> torch.Tensor:
        return F.linear(inputs, self._delta(memory, inputs.device, inputs.dtype))

    def _delta(self, memory: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        key = (memory, device, dtype)
        with self._unpacking:
            if key not in self._dense:
                self._dense[key] = self._memories[memory].delta().to(device, dtype)
                # Keep as many as one forward needs, or each token would unpack them again.
                forward = running_forward()
                needed = len(forward.rows_of()) if forward is not None else 0
                if len(self._dense) > max(MAX_DENSE, needed):
                    self._dense.popitem(last=False)
            self._dense.move_to_end(key)
            return self._dense[key]
