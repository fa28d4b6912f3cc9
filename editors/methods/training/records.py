"""What one forward leaves at the edited block, for training to go on from: rows of batches, that
can be cut and put together again."""

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
    """What one forward left at the edited block, for one right-padded batch.

    ``states``: "inputs" ``[rows, seq, in]`` into the projection; "projected": what main memory
    makes of them; "hidden" ``[rows, seq, hidden]`` into the block; "attention": what the block's
    attention gives. ``real`` and ``labelled``: the tokens that are no pads, and those before a
    label; ``labels``: the labels, in the same order; ``lengths``: the tokens of each row.
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
        """``[rows, seq, in]``: what the projection reads."""
        return self.states["inputs"]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.lengths)

    def side(self, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """``[rows, seq, out]``: what ``change``, of ``[..., in]``, makes of the real tokens that
        the projection reads; without meaning at pads."""
        inputs = self.inputs
        side: torch.Tensor = run_at(self.real, inputs, change, max_wasted_on(inputs.device))
        return side

    def of_rows(self, rows: Sequence[int]) -> Record:
        """Some rows of the batch alone, cut to the longest of them."""
        return Record.joined([(self, rows)])

    @staticmethod
    def joined(parts: Sequence[tuple[Record, Sequence[int]]]) -> Record:
        """Some rows of each record, in this order, as one: no longer than the longest of them."""
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
        """Some rows of the batch, cut to the longest, and their states ``[rows, seq, size]``."""
        longest, whole = max(self.lengths[row] for row in rows), self.batch
        batch = Batch(
            whole.ids[rows, :longest], whole.mask[rows, :longest], whole.prompt_lengths[rows]
        )
        return batch, {name: self.states.part(name, rows, longest) for name in self.states}


def stacked(batches: Sequence[Batch]) -> Batch:
    """Batches as one, their rows in order, padded to the longest."""
    if len(batches) == 1:
        return batches[0]
    longest = max(batch.ids.shape[1] for batch in batches)
    ids = torch.cat([_widened(batch.ids, longest) for batch in batches])
    mask = torch.cat([_widened(batch.mask, longest) for batch in batches])
    return Batch(ids, mask, torch.cat([batch.prompt_lengths for batch in batches]))


def _widened(tokens: torch.Tensor, width: int) -> torch.Tensor:
    """``[rows, seq, ...]`` -> ``[rows, width, ...]``, zeros behind."""
    more = width - tokens.shape[1]
    return F.pad(tokens, (*(0, 0) * (tokens.ndim - 2), 0, more)) if more else tokens


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
