"""Training one edit after the other, with margins on the routing activation: the paper's own
way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from editors.methods.training.records import Record
from editors.methods.training.state_offload import StateOffload
from editors.methods.training.suffix_replay import record
from editors.methods.wise.activation import activations
from editors.methods.wise.shards import Mask
from editors.methods.wise.training.joint import ShardTraining, step
from editors.methods.wise.training.masked_delta import MaskedDelta
from editors.model.base_model import Base
from editors.model.tokenization import Row


@dataclass(frozen=True, slots=True)
class SequentialSettings:
    """Plain SGD and the three margins of Eq. 5 (WISE Table 10, section 2.3.1); an edit ends when
    its loss is at most ``enough``."""

    max_steps: int = 70
    learning_rate: float = 1.0
    enough: float = 0.02
    alpha: float = 5.0
    beta: float = 20.0
    gamma: float = 10.0


def margin_loss(
    edited: torch.Tensor, irrelevant: torch.Tensor, settings: SequentialSettings
) -> torch.Tensor:
    """WISE Eq. 5: irrelevant activations below alpha, edited ones above beta, gamma between.

    ``edited`` ``[rows]`` and ``irrelevant`` ``[prompts]`` are routing activations; the mean over
    edited rows and the mean over irrelevant prompts.
    """
    below_alpha = F.relu(irrelevant - settings.alpha).mean()
    above_beta = F.relu(settings.beta - edited).mean()
    apart = F.relu(settings.gamma - (edited[:, None] - irrelevant[None, :])).mean()
    return below_alpha + above_beta + apart


def train_sequentially(
    base: Base,
    edits: Sequence[Sequence[Row]],
    irrelevant: Sequence[Row],
    mask: Mask,
    start: torch.Tensor | None,
    settings: SequentialSettings,
    memory_bytes: int | None = None,
) -> ShardTraining:
    """One edit after the other, each from where the last one left the values (WISE Alg. 1).

    ``edits``: for each edit its bare prompt with the target, then the same behind prefixes;
    ``irrelevant``: prompts (no labels) that must stay below the margin. The threshold is the
    smallest activation of a bare prompt, each measured after its own edit. ``memory_bytes``: as of
    :func:`~editors.methods.wise.training.joint.train_jointly`.
    """
    change = MaskedDelta(mask.entries(), start, base.projection.weight(base.model))
    [unrelated] = record(base, [base.batch(irrelevant)]).records
    steps, failed, threshold = 0, [], float("inf")
    for number, rows in enumerate(edits):
        # An edit's states are done with when the next edit begins.
        suffix = record(base, [base.batch(rows)], StateOffload(memory_bytes))
        [edit] = suffix.records
        optimizer = torch.optim.SGD([change.values], lr=settings.learning_rate)
        with suffix.replaying():
            for _ in range(settings.max_steps):
                side = edit.side(change)
                logits, labels = suffix.logits(edit, side)
                margins = margin_loss(
                    _activations(edit, side),
                    _activations(unrelated, unrelated.side(change)),
                    settings,
                )
                loss = F.cross_entropy(logits.float(), labels) + margins.to(logits.device)
                if float(loss.detach()) <= settings.enough:
                    break
                step(optimizer, change, loss)
                steps += 1
            with torch.no_grad():
                side = edit.side(change)
                logits, labels = suffix.logits(edit, side)
                bare = edit.labelled[0].to(labels.device) == 0
                right = (logits.argmax(-1) == labels)[bare]
                threshold = min(threshold, float(_activations(edit, side)[0]))
        if not bool(right.all()):
            failed.append(number)
    return ShardTraining(change.result(), steps, tuple(failed), threshold)


def _activations(recorded: Record, side: torch.Tensor) -> torch.Tensor:
    """``[rows]``: the routing activation of each recorded row, over its prompt tokens."""
    return activations(side.float(), recorded.batch.prompt_lengths)
