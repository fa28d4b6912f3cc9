"""Adding to a module's output for the rows that an edit answers, and for no other."""

from __future__ import annotations

from collections.abc import Callable

import torch

from editors.errors import EditorError
from editors.inference.calls import running_forward

Change = Callable[[int, torch.Tensor], torch.Tensor]
"""What a memory adds: of its number and ``[rows, seq, in]``, ``[rows, seq, out]``."""


def with_changes(inputs: torch.Tensor, output: torch.Tensor, change: Change) -> torch.Tensor:
    """``output`` with what each routed row's memory adds to it.

    ``inputs``: ``[rows, seq, in]`` or, where a block flattens its rows, ``[rows * seq, in]``;
    ``output`` likewise. Rows that no memory answers keep their output bit for bit.

    Raises:
        EditorError: there are not the rows that were routed.
    """
    forward = running_forward()
    rows_of = forward.rows_of() if forward is not None else {}
    if forward is None or not rows_of:
        return output
    if inputs.ndim == 2 and inputs.shape[0] % forward.rows == 0:
        whole = inputs.view(forward.rows, -1, inputs.shape[-1])
        shaped = output.view(forward.rows, -1, output.shape[-1])
        return _changed(whole, shaped, rows_of, change).flatten(0, 1)
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
