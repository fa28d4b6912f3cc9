"""Training a shard: the values on its mask, by gradient, through the recorded suffix.

Two ways. ``jointly`` is the default: the facts of a shard together, on the target alone, because
the router keeps scope. ``in_order`` is the paper's: one edit after the other, with the losses
that teach the routing activation (WISE Eq. 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from editors.base import Base
from editors.masked import MaskedChange
from editors.routing import activations
from editors.side_memory import Mask
from editors.suffix import Suffix
from editors.tokens import Row

LATE_CONFIDENCE = 0.9  # enough in the second half of the steps
LOOK_AGAIN = 4  # rounds after which groups that dropped out are looked at again


@dataclass(frozen=True, slots=True)
class Outcome:
    """What training gave: the values on the mask, the steps taken, the facts that failed.

    ``values``: ``[masked]``, rounded to the dtype that the base computes in, which is all that it
    will ever see of them; what failed is judged after that. ``threshold``: the smallest routing
    activation over the edits (infinite where not measured).
    """

    values: torch.Tensor
    iterations: int
    failed: tuple[int, ...]
    threshold: float = float("inf")


@dataclass(frozen=True, slots=True)
class JointSettings:
    """How facts are trained together.

    ``learning_rate`` is in units of the projection's root mean square weight; rows are done when
    each of their target tokens has at least probability ``confidence`` (``LATE_CONFIDENCE``, if
    that is less, in the second half of ``max_steps``).
    """

    max_steps: int
    learning_rate: float
    confidence: float
    rows_at_once: int = 64


def jointly(
    base: Base,
    rows: Sequence[Row],
    owners: Sequence[int],
    mask: Mask,
    start: torch.Tensor | None,
    settings: JointSettings,
    seed: int,
) -> Outcome:
    """Train all rows until each is answered with confidence, or the steps run out.

    In rounds over groups of rows of like length: one that is sure takes no step and drops out.
    Every few rounds, and once all have, those that later steps have spoilt come back. In the second
    half of the steps less confidence will do: a token with a near twin may never get all of it.

    ``rows``: prompts with targets; ``owners[i]``: the fact of row ``i``, whose first row is its
    bare prompt: a fact fails when the target is not the greedy answer to that. ``start``:
    ``[masked]``, None for zeros. Entries outside the mask are not touched.
    """
    weight = base.projection.weight(base.model)
    change = MaskedChange(mask, start, weight)
    scale = float(weight.float().square().mean().sqrt())
    rate = settings.learning_rate * scale
    optimizer = torch.optim.Adam([change.values], lr=rate, betas=(0.9, 0.95))
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i].ids), i))
    groups = [
        order[i : i + settings.rows_at_once] for i in range(0, len(order), settings.rows_at_once)
    ]
    suffix = Suffix.record(
        base.model,
        base.architecture,
        base.layer,
        [base.batch([rows[i] for i in g]) for g in groups],
    )
    generator = torch.Generator().manual_seed(seed)
    open_groups, steps, rounds = list(range(len(groups))), 0, 0
    with suffix.replaying():
        while open_groups and steps < settings.max_steps:
            before, visited = steps, set(open_groups)
            late = steps >= settings.max_steps // 2
            wanted = min(settings.confidence, LATE_CONFIDENCE) if late else settings.confidence
            weak = set()
            for turn in torch.randperm(len(open_groups), generator=generator).tolist():
                g = open_groups[turn]
                logits, labels = suffix.logits(g, suffix.side(g, change))
                if _sure(logits, labels, wanted):
                    continue
                if steps >= settings.max_steps:
                    break
                weak.add(g)
                now = rate * (1 - 0.9 * steps / settings.max_steps)
                optimizer.param_groups[0]["lr"] = now
                _step(optimizer, change, F.cross_entropy(logits.float(), labels))
                steps += 1
            rounds += 1
            open_groups = [g for g in open_groups if g in weak]
            # Steps for some groups may spoil what others had learnt.
            if not open_groups or rounds % LOOK_AGAIN == 0:
                open_groups = [
                    g
                    for g in range(len(groups))
                    if not _sure(*_logits_now(suffix, g, change), wanted)
                ]
            if steps == before and visited.issuperset(open_groups):
                break  # two looks that differ in the last bits: no step would be taken again
        wrong = {
            members[i]
            for g, members in enumerate(groups)
            for i in _wrong_rows(suffix, g, change).tolist()
        }
    first_rows = {owner: i for i, owner in reversed(list(enumerate(owners)))}
    failed = tuple(owner for owner, i in sorted(first_rows.items()) if i in wrong)
    return Outcome(change.rounded().cpu(), steps, failed)


def _step(optimizer: torch.optim.Optimizer, change: MaskedChange, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    torch.autograd.backward(loss, inputs=[change.values])  # not the base's parameters
    optimizer.step()


def _sure(logits: torch.Tensor, labels: torch.Tensor, wanted: float) -> bool:
    """Every label has at least the probability ``wanted``."""
    chances = logits.detach().float().softmax(-1).gather(1, labels[:, None])  # [labels, 1]
    return bool((chances >= wanted).all())


@torch.no_grad()
def _logits_now(
    suffix: Suffix, index: int, change: MaskedChange
) -> tuple[torch.Tensor, torch.Tensor]:
    return suffix.logits(index, suffix.side(index, change))


def _wrong_rows(suffix: Suffix, index: int, change: MaskedChange) -> torch.Tensor:
    """int64 ``[wrong]``: the rows of a recorded batch with a label that is not the likeliest,
    once for each such label."""
    logits, labels = _logits_now(suffix, index, change)
    return suffix.label_rows(index)[logits.argmax(-1) != labels]


@dataclass(frozen=True, slots=True)
class OrderedSettings:
    """The paper's loop (WISE Table 10, section 2.3.1): plain SGD and the three margins of Eq. 5."""

    max_steps: int = 70
    learning_rate: float = 1.0
    enough: float = 0.02
    alpha: float = 5.0
    beta: float = 20.0
    gamma: float = 10.0


def margin_loss(
    edited: torch.Tensor, irrelevant: torch.Tensor, settings: OrderedSettings
) -> torch.Tensor:
    """WISE Eq. 5: irrelevant activations below alpha, edited ones above beta, gamma between.

    ``edited`` ``[rows]`` and ``irrelevant`` ``[prompts]`` are routing activations; the mean over
    edited rows and the mean over irrelevant prompts.
    """
    calm = F.relu(irrelevant - settings.alpha).mean()
    loud = F.relu(settings.beta - edited).mean()
    apart = F.relu(settings.gamma - (edited[:, None] - irrelevant[None, :])).mean()
    return calm + loud + apart


def in_order(
    base: Base,
    edits: Sequence[Sequence[Row]],
    irrelevant: Sequence[Row],
    mask: Mask,
    start: torch.Tensor | None,
    settings: OrderedSettings,
) -> Outcome:
    """One edit after the other, each from where the last one left the values (WISE Alg. 1).

    ``edits``: for each edit its bare prompt with the target, then the same after prefixes;
    ``irrelevant``: prompts (no labels) that must stay below the margin. The threshold is the
    smallest activation of a bare prompt, each measured after its own edit.
    """
    change = MaskedChange(mask, start, base.projection.weight(base.model))
    calm = Suffix.record(base.model, base.architecture, base.layer, [base.batch(irrelevant)])
    steps, failed, threshold = 0, [], float("inf")
    for number, rows in enumerate(edits):
        batches = [base.batch(rows)]
        suffix = Suffix.record(base.model, base.architecture, base.layer, batches)
        optimizer = torch.optim.SGD([change.values], lr=settings.learning_rate)
        with suffix.replaying():
            for _ in range(settings.max_steps):
                side = suffix.side(0, change)
                logits, labels = suffix.logits(0, side)
                margins = margin_loss(
                    _activations(suffix, side), _activations(calm, calm.side(0, change)), settings
                )
                loss = F.cross_entropy(logits.float(), labels) + margins
                if float(loss.detach()) <= settings.enough:
                    break
                _step(optimizer, change, loss)
                steps += 1
            with torch.no_grad():
                side = suffix.side(0, change)
                logits, labels = suffix.logits(0, side)
                bare = suffix.label_rows(0) == 0
                right = (logits.argmax(-1) == labels)[bare]
                threshold = min(threshold, float(_activations(suffix, side)[0]))
        if not bool(right.all()):
            failed.append(number)
    return Outcome(change.rounded().cpu(), steps, tuple(failed), threshold)


def _activations(suffix: Suffix, side: torch.Tensor) -> torch.Tensor:
    """``[rows]``: the routing activation of each recorded row, over its prompt tokens."""
    return activations(side.float(), suffix.batches[0].prompt_lengths)
