"""Changing the output of a module at the rows that an edit answers, and at no others."""

from __future__ import annotations

from collections.abc import Callable

import torch

from editors.errors import EditorError
from editors.inference.calls import running_forward

Change = Callable[[int, torch.Tensor], torch.Tensor]
"""From the number of a memory and the inputs ``[rows, seq, in]`` of its rows to what it adds to
their output, ``[rows, seq, out]``."""


def with_changes(inputs: torch.Tensor, output: torch.Tensor, change: Change) -> torch.Tensor:
    """``output``, to which each memory has added its change at the rows that it answers.

    ``inputs``: ``[rows, seq, in]``, or ``[rows * seq, in]`` if the block flattens its rows;
    ``output``: likewise, with ``out`` features. Rows that no memory answers keep their output, bit
    for bit. Without a running forward, ``output`` is returned.

    Raises:
        EditorError: ``inputs`` does not have the rows of the running forward.
    """
    forward = running_forward()
    rows_of = forward.rows_of() if forward is not None else {}
    if forward is None or not rows_of:
        return output
    rows = len(forward.call_rows)
    if len(inputs) % rows or (inputs.ndim == 3 and len(inputs) != rows):
        raise EditorError(
            f"{len(inputs)} rows were given to a side memory that routed {rows}",
            "start a new generation",
        )
    by_row = inputs.view(rows, -1, inputs.shape[-1])
    changed = output.view(rows, -1, output.shape[-1])
    if max(map(len, rows_of.values())) == rows:  # one memory answers all rows
        [memory] = rows_of
        changed = changed + change(memory, by_row)
    else:
        changed = changed.clone()
        for memory, numbers in rows_of.items():
            index = numbers.to(inputs.device)
            changed.index_add_(0, index, change(memory, by_row[index]))
    return changed.reshape(output.shape)
