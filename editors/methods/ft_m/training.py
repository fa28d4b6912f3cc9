"""Fine-tuning a projection: a dense change of its weight, trained on targets within a bound."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import nn

from editors.inference.batching import Budget, batches
from editors.methods.ft_m import FtMSettings
from editors.methods.training.loops import Training, finished, rows_answered, step, unsure_rows
from editors.methods.training.state_offload import StateOffload
from editors.methods.training.suffix_replay import record_states
from editors.model.base_model import Base, is_probing
from editors.model.tokenization import Row

STEP = Budget(rows=32, tokens=2048)


class DenseDelta(nn.Module):
    """A projection with ``delta`` ``[out, in]`` added to its weight, for every prompt."""

    def __init__(self, base_layer: nn.Module, delta: torch.Tensor) -> None:
        super().__init__()
        self.base_layer = base_layer
        self._delta = delta

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """``[..., in]`` -> ``[..., out]``; in a probing forward, the output of the base module."""
        output: torch.Tensor = self.base_layer(inputs)
        if is_probing():
            return output
        return output + F.linear(inputs, self._delta.to(inputs.device, inputs.dtype))


def fine_tune(
    base: Base,
    facts: Sequence[Sequence[Row]],
    start: torch.Tensor | None,
    settings: FtMSettings,
    seed: int,
    memory_bytes: int | None,
) -> Training:
    """Train the rows of ``facts`` until all are confident, or until ``settings.max_steps``. The
    result has the change ``[out, in]`` as its values, on the CPU.

    ``facts``: the rows of each fact (prompts with targets), the bare prompt first. ``start``:
    ``[out, in]``, the change to start from, None for zeros. The loss is the cross entropy of the
    target tokens. After each step of Adam, every entry is clamped to the bound (arXiv 2012.00363,
    section 3). ``seed``: of the order of batches. ``memory_bytes``: the bytes of recorded states
    that stay in memory, None for all.

    Raises:
        EditorError: training gave values that are not finite.
    """
    weight = base.projection.weight(base.model)
    unit = float(weight.float().square().mean().sqrt())
    delta = torch.zeros(weight.shape, device=weight.device) if start is None else start
    delta = delta.to(weight.device, torch.float32, copy=True).requires_grad_()
    optimizer = torch.optim.Adam([delta], lr=settings.learning_rate * unit)
    rows = [row for fact_rows in facts for row in fact_rows]
    groups = batches([len(row.ids) for row in rows], STEP)
    padded = [base.batch([rows[i] for i in group]) for group in groups]
    suffix = record_states(base, padded, StateOffload(memory_bytes))
    generator = torch.Generator().manual_seed(seed)
    steps, unsure = 0, True
    with suffix.replaying():
        while unsure and steps < settings.max_steps:
            unsure = False
            for turn in torch.randperm(len(groups), generator=generator).tolist():
                if steps == settings.max_steps:
                    break
                record = suffix.records[turn]
                logits, labels = suffix.logits(
                    record, record.side(lambda x: F.linear(x, delta.to(x)))
                )
                if not unsure_rows(record, logits, labels, settings.confidence):
                    continue
                step(optimizer, delta, F.cross_entropy(logits.float(), labels))
                with torch.no_grad():
                    delta.clamp_(-settings.bound * unit, settings.bound * unit)
                steps, unsure = steps + 1, True
        rounded = finished(delta, weight.dtype)
        answered: dict[int, bool] = {}
        with torch.no_grad():
            for group, record in zip(groups, suffix.records, strict=True):
                side = record.side(lambda x: F.linear(x, rounded.to(x)))
                answered |= zip(
                    group, rows_answered(record, *suffix.logits(record, side)), strict=True
                )
    bare_rows = [0, *accumulate(map(len, facts))][: len(facts)]
    failed = tuple(number for number, bare_row in enumerate(bare_rows) if not answered[bare_row])
    return Training(rounded.cpu(), steps, failed)
