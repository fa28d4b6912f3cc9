"""Training one edit after the other, with margins on the routing activation, as in the paper (WISE,
arXiv 2405.14768)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from editors.methods.training.loops import Training, step
from editors.methods.training.records import Record
from editors.methods.training.state_offload import StateOffload
from editors.methods.training.suffix_replay import record_states
from editors.methods.wise.activation import activations
from editors.methods.wise.settings import WiseSettings
from editors.methods.wise.shards import Mask
from editors.methods.wise.training.masked_delta import MaskedDelta
from editors.model.base_model import Base
from editors.model.tokenization import Row

ENOUGH = 0.02  # an edit is trained until its loss is at most this


def margin_loss(
    edited: torch.Tensor, irrelevant: torch.Tensor, settings: WiseSettings
) -> torch.Tensor:
    """The margin loss (WISE Eq. 5), a scalar: routing activations of irrelevant prompts should be
    below alpha, those of edited prompts above beta, and their differences above gamma.

    ``edited``: ``[rows]``; ``irrelevant``: ``[prompts]``. Each term is a mean over rows, prompts or
    pairs.
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
    settings: WiseSettings,
    memory_bytes: int | None = None,
    enough: float = ENOUGH,
) -> Training:
    """Train one edit after the other, each from the values of the last one (WISE Alg. 1).

    ``edits``: the rows of each edit, its bare prompt with the target first, then prefixed forms;
    ``irrelevant``: prompts without labels, whose activations should stay below the margin. The
    threshold is the smallest activation of a bare prompt, measured directly after its edit. An edit
    is trained by plain SGD with the three margins of WISE Eq. 5 (values: Table 10, section 2.3.1),
    until its loss is at most ``enough``, or for ``settings.max_steps``.
    ``start`` and ``memory_bytes``: see
    :func:`~editors.methods.wise.training.joint.train_jointly`.

    Raises:
        EditorError: training gave values that are not finite.
    """
    change = MaskedDelta(mask.entries(), start, base.projection.weight(base.model))
    [unrelated] = record_states(base, [base.batch(irrelevant)]).records
    steps, failed, threshold = 0, [], float("inf")
    for number, rows in enumerate(edits):
        # The recorded states of an edit are freed when the next edit begins.
        suffix = record_states(base, [base.batch(rows)], StateOffload(memory_bytes))
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
                if float(loss.detach()) <= enough:
                    break
                step(optimizer, change.values, loss)
                steps += 1
            with torch.no_grad():
                side = edit.side(change)
                logits, labels = suffix.logits(edit, side)
                bare = edit.labelled[0].to(labels.device) == 0
                correct = (logits.argmax(-1) == labels)[bare]
                threshold = min(threshold, float(_activations(edit, side)[0]))
        if not bool(correct.all()):
            failed.append(number)
    return Training(change.result(), steps, tuple(failed), threshold)


def _activations(recorded: Record, side: torch.Tensor) -> torch.Tensor:
    """``[rows]``: the routing activation of each recorded row over its prompt tokens.

    ``side``: ``[rows, seq, out]``, what the side memory adds to the output of the projection.
    """
    return activations(side.float(), recorded.batch.prompt_lengths)
