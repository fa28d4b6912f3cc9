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
    if inputs.ndim == 2 and inputs.shape[0] % forward.rows == 0:
        by_row = inputs.view(forward.rows, -1, inputs.shape[-1])
        shaped = output.view(forward.rows, -1, output.shape[-1])
        return _changed(by_row, shaped, rows_of, change).flatten(0, 1)
    if inputs.ndim == 2 or inputs.shape[0] != forward.rows:
        raise EditorError(
            f"{inputs.shape[0]} rows were given to a side memory that routed {forward.rows}",
            "start a new generation",
        )
    return _changed(inputs, output, rows_of, change)


def _changed(
    inputs: torch.Tensor, output: torch.Tensor, rows_of: dict[int, torch.Tensor], change: Change
) -> torch.Tensor:
    changed = output
    for memory, rows in rows_of.items():
        if len(rows) == len(inputs):
            return output + change(memory, inputs)
        if changed is output:
            changed = output.clone()
        index = rows.to(inputs.device)
        changed.index_add_(0, index, change(memory, inputs[index]))
    return changed
