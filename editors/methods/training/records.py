"""Recorded states of the edited block, from which training continues. Rows of several records can
be joined to new records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from editors.inference.token_subset import max_wasted_on, run_at
from editors.methods.training.state_offload import OffloadedTensors
from editors.model.tokenization import IGNORED, Batch, TokenIndex


@dataclass(frozen=True, slots=True)
class Record:
    """The states of the edited block in one forward over a batch that is padded on the right.

    ``states``: "inputs" ``[rows, seq, in]``, the input of the projection; "projected" ``[rows, seq,
    out]``, its output; "hidden" ``[rows, seq, hidden]``, the input of the block; "attention"
    ``[rows, seq, hidden]``, the output of its attention. ``real``: the index of all tokens except
    pads; ``labelled``: the index of the tokens before a label; ``labels``: int64 ``[labels]``, in
    the order of ``labelled``; ``lengths``: the number of tokens of each row.
    """

    batch: Batch
    real: TokenIndex
    labelled: TokenIndex
    labels: torch.Tensor
    lengths: list[int]
    states: OffloadedTensors

    @staticmethod
    def of(batch: Batch, states: OffloadedTensors) -> Record:
        labels = batch.labels()[:, 1:]
        trained = labels != IGNORED
        real, labelled = batch.mask.nonzero(as_tuple=True), trained.nonzero(as_tuple=True)
        return Record(batch, real, labelled, labels[trained], batch.mask.sum(1).tolist(), states)

    @property
    def inputs(self) -> torch.Tensor:
        """``[rows, seq, in]``: the input of the projection."""
        return self.states["inputs"]

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.lengths)

    def side(self, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """``[rows, seq, out]``: the result of ``change`` (``[..., in]`` -> ``[..., out]``) for the
        input of the projection. It has no meaning at pads."""
        inputs = self.inputs
        side: torch.Tensor = run_at(self.real, inputs, change, max_wasted_on(inputs.device))
        return side

    def of_rows(self, rows: Sequence[int]) -> Record:
        """A record of some rows only, cut to the longest of them."""
        return Record.joined([(self, rows)])

    @staticmethod
    def joined(parts: Sequence[tuple[Record, Sequence[int]]]) -> Record:
        """One record of some rows of each of several records, in this order, padded to the longest
        of these rows."""
        first, rows = parts[0]
        if len(parts) == 1 and list(rows) == list(range(first.rows)):
            return first
        cut = [record._cut(list(rows)) for record, rows in parts]
        batch = stacked([batch for batch, _ in cut])
        width = batch.ids.shape[1]
        states = {
            name: _joined([_widened(states[name], width) for _, states in cut])
            for name in cut[0][1]
        }
        return Record.of(batch, OffloadedTensors.of(states))

    def _cut(self, rows: list[int]) -> tuple[Batch, dict[str, torch.Tensor]]:
        """A batch of some rows, cut to the longest of them, and their states ``[rows, seq,
        size]``."""
        longest, batch = max(self.lengths[row] for row in rows), self.batch
        cut = Batch(
            batch.ids[rows, :longest], batch.mask[rows, :longest], batch.prompt_lengths[rows]
        )
        return cut, {name: self.states.part(name, rows, longest) for name in self.states}


def stacked(batches: Sequence[Batch]) -> Batch:
    """One batch of the rows of all ``batches``, in order, padded on the right to the longest."""
    if len(batches) == 1:
        return batches[0]
    longest = max(batch.ids.shape[1] for batch in batches)
    ids = torch.cat([_widened(batch.ids, longest) for batch in batches])
    mask = torch.cat([_widened(batch.mask, longest) for batch in batches])
    return Batch(ids, mask, torch.cat([batch.prompt_lengths for batch in batches]))


def _widened(tokens: torch.Tensor, width: int) -> torch.Tensor:
    """``[rows, seq, ...]`` -> ``[rows, width, ...]``, with zeros at the end."""
    more = width - tokens.shape[1]
    return F.pad(tokens, (*(0, 0) * (tokens.ndim - 2), 0, more)) if more else tokens


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
