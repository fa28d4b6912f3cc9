"""Training the facts of a shard together, on their targets only.

This is the default of this project. The scope signal keeps other prompts out, so the loss has no
margins. The training of the paper is in :mod:`editors.methods.wise.training.sequential`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, groupby

import torch
import torch.nn.functional as F

from editors.inference.batching import Budget, batches
from editors.inference.hidden_states import StateRequest
from editors.inference.token_subset import on
from editors.methods.training.loops import (
    Training,
    least_by_row,
    probabilities,
    rows_answered,
    step,
    unsure_rows,
)
from editors.methods.training.records import Record
from editors.methods.training.state_offload import StateOffload
from editors.methods.training.suffix_replay import SuffixReplay, record_states
from editors.methods.wise.settings import WiseSettings
from editors.methods.wise.shards import LowRank, Mask, Support
from editors.methods.wise.training.low_rank_delta import LowRankDelta
from editors.methods.wise.training.masked_delta import MaskedDelta
from editors.model.base_model import Base
from editors.model.tokenization import Row

BETAS = (0.7, 0.95)  # of Adam; with more momentum, rows take more steps than they need
# Of the learning rate: a change of low rank has few values, and each moves the answers more.
LOW_RANK_RATE = 0.15
LATE_CONFIDENCE = 0.9  # suffices in the second half of the steps
RECHECK_AFTER = 4  # steps for each batch; then rows that were confident before are checked again
# Rows of a step. With few rows, each row takes fewer steps until all are confident. Many rows are
# faster on an accelerator.
BATCH_SIZE = {"cpu": 32}
BATCH_SIZE_ELSEWHERE = 64
BATCH_TOKENS = 2048  # of a step, pads included; the memory of a step grows with them

RowId = tuple[int, int]
"""The number of a record among those that are trained, and the number of a row in it."""

Recorded = Sequence[tuple[Sequence[int], Record]]
"""Recorded rows: the numbers of the rows of each record, and the record."""


def batch_size_on(device: torch.device) -> int:
    """The number of rows of a step on ``device``."""
    return BATCH_SIZE.get(device.type, BATCH_SIZE_ELSEWHERE)


def _batches(base: Base, lengths: Sequence[int]) -> list[list[int]]:
    return batches(lengths, Budget(rows=batch_size_on(base.device), tokens=BATCH_TOKENS))


def train_jointly(
    base: Base,
    facts: Sequence[Sequence[Row]],
    trained_count: int,
    support: Support,
    start: torch.Tensor | None,
    settings: WiseSettings,
    seed: int,
    memory_bytes: int | None = None,
    request: StateRequest | None = None,
    judged: Sequence[Sequence[Row]] = (),
    also: Recorded = (),
) -> Training:
    """Train the rows of facts together until each row is confident, or until steps run out.

    ``facts``: the rows of each fact (prompts with targets), the bare prompt first. The first
    ``trained_count`` facts are trained. The others are in the shard already and are only
    checked: a fact is trained again if its bare prompt was confident before and is no longer.
    So the cost of an edit does not grow with the shard. ``judged``: for each trained fact, rows
    that are not trained; those whose target is not the greedy answer are then trained, too. A
    fact fails if its target is not the greedy answer to its bare prompt, or to a judged one
    even then. ``support``: which changes can be trained. ``start``: ``[count]``, the values to
    start from, None for no change. ``settings.learning_rate`` is in units of the projection's
    root mean square weight. A row is confident when each of its target tokens has at least
    probability ``settings.confidence``; in the second half of the steps, ``LATE_CONFIDENCE``
    suffices if it is less. ``seed``: of the order of batches. ``memory_bytes``: the bytes of
    recorded states that stay in memory, None for all. ``request``: states read in the first
    recording. ``also``: recorded rows that are trained with the facts.

    Raises:
        EditorError: training gave values that are not finite.
    """
    offload = StateOffload(memory_bytes)
    with ThreadPoolExecutor(1) as executor:
        # Drawing and moving the mask of a large layer takes as long as recording does.
        drawing = executor.submit(_drawn, support, base)
        trained_rows = [row for rows in facts[:trained_count] for row in rows]
        checked_rows = [rows[0] for rows in facts[trained_count:]]
        judged_rows = [row for rows in judged for row in rows]
        parts = [trained_rows, checked_rows, judged_rows]
        suffix, (trained, checked, untrained) = recorded_rows(base, offload, parts, request)
    change = _change(support, drawing.result(), start, base, [*trained, *also])
    training = _JointTraining(base, suffix, change, start, settings, seed)
    del drawing  # the entries of a large layer take much memory
    bare_rows = {0, *accumulate(len(rows) for rows in facts[: trained_count - 1])}
    enough = min(settings.confidence, LATE_CONFIDENCE)
    unsure_before: set[int] | None = None  # numbers of checked facts; found only if it matters
    training.train([*trained, *also])
    missed = {i for i, (_, answered) in enumerate(training.check(untrained)) if not answered}
    taught = _only(untrained, missed)
    training.train(taught)
    while True:
        found = training.check(checked)
        unsure = {i for i, (least, _) in enumerate(found) if not least >= enough}
        if not unsure or training.steps >= settings.max_steps:
            break
        if unsure_before is None:
            at_start = training.check_at_start(checked)
            unsure_before = {i for i, (least, _) in enumerate(at_start) if not least >= enough}
        forgotten = sorted(unsure - unsure_before)
        if not forgotten:
            break
        unsure_before |= unsure  # each is trained again once
        rows_again = [row for i in forgotten for row in facts[trained_count + i]]
        _, [again] = recorded_rows(base, offload, [rows_again])
        training.train(again)
    # If steps are left, all trained rows are confident, and a token above 0.5 is the likeliest.
    if training.steps == settings.max_steps or settings.confidence <= 0.5:
        found = training.check(_only(trained, bare_rows)) + found
    else:
        found = [(1.0, True)] * trained_count + found
    owners = [number for number, rows in enumerate(judged) for _ in rows]
    judgements = zip(sorted(missed), training.check(taught), strict=True)
    not_learnt = {owners[row] for row, (_, answered) in judgements if not answered}
    failed = tuple(i for i, (_, said) in enumerate(found) if not said or i in not_learnt)
    return Training(training.change.result(), training.steps, failed)


def _drawn(support: Support, base: Base) -> torch.Tensor | None:
    """bool ``[out, in]``: the entries of a mask, on the device of ``base``; None for another
    support."""
    return support.entries().to(base.device) if isinstance(support, Mask) else None


def _change(
    support: Support,
    entries: torch.Tensor | None,
    start: torch.Tensor | None,
    base: Base,
    recorded: Recorded,
) -> MaskedDelta | LowRankDelta:
    """The trainable change; ``entries``: the result of :func:`_drawn`; ``recorded``: the rows to
    train."""
    weight = base.projection.weight(base.model)
    if isinstance(support, LowRank):
        if start is None:
            size = float(weight.float().square().mean().sqrt())
            before_labels = [
                record.inputs[on(record.inputs.device, record.labelled)] for _, record in recorded
            ]
            start = support.first(size, torch.cat(before_labels))
        return LowRankDelta(support, start, weight)
    assert entries is not None
    return MaskedDelta(entries, start, weight)


def recorded_rows(
    base: Base,
    offload: StateOffload,
    parts: Sequence[Sequence[Row]],
    request: StateRequest | None = None,
) -> tuple[SuffixReplay, list[Recorded]]:
    """The suffix, and for each part of the rows its :data:`Recorded` rows, in batches of their
    own."""
    grouped = [_batches(base, [len(row.ids) for row in part]) for part in parts]
    padded = [
        base.batch([part[i] for i in group])
        for part, groups in zip(parts, grouped, strict=True)
        for group in groups
    ]
    suffix = record_states(base, padded, offload, request=request)
    records = iter(suffix.records)
    return suffix, [[(group, next(records)) for group in groups] for groups in grouped]


def _only(recorded: Recorded, rows: Collection[int]) -> Recorded:
    """Some ``rows`` of ``recorded``."""
    chosen = []
    for numbers, record in recorded:
        positions = [i for i, row in enumerate(numbers) if row in rows]
        if positions:
            chosen.append(([numbers[i] for i in positions], record.of_rows(positions)))
    return chosen


class _JointTraining:
    """The values of a shard during training, their optimiser, and the number of steps so far."""

    def __init__(
        self,
        base: Base,
        suffix: SuffixReplay,
        change: MaskedDelta | LowRankDelta,
        start: torch.Tensor | None,
        settings: WiseSettings,
        seed: int,
    ) -> None:
        """``suffix``: replays any record of the base; ``change``: what is trained; ``start``:
        ``[count]``, its values before training, None if they change nothing."""
        weight = base.projection.weight(base.model)
        self._base, self._suffix, self._settings = base, suffix, settings
        self._rate = settings.learning_rate * float(weight.float().square().mean().sqrt())
        if isinstance(change, LowRankDelta):
            self._rate *= LOW_RANK_RATE
        self._generator = torch.Generator().manual_seed(seed)
        self.change = change
        self._start = start
        self._optimizer = torch.optim.Adam([self.change.values], lr=self._rate, betas=BETAS)
        self._records: list[Record] = []
        self.steps = 0

    @torch.no_grad()
    def check(self, recorded: Recorded) -> list[tuple[float, bool]]:
        """For each row, in the order of their numbers: the probability of its least likely label,
        and whether all its labels are the likeliest tokens."""
        found: dict[int, tuple[float, bool]] = {}
        with self._suffix.replaying():
            for numbers, record in recorded:
                logits, labels = self._suffix.logits(record, record.side(self.change))
                least = least_by_row(record, probabilities(logits, labels))
                answered = rows_answered(record, logits, labels)
                found |= zip(numbers, zip(least, answered, strict=True), strict=True)
        return [found[row] for row in sorted(found)]

    @torch.no_grad()
    def check_at_start(self, recorded: Recorded) -> list[tuple[float, bool]]:
        """The result of :meth:`check` for the values at the start of training."""
        trained = self.change.values.clone()
        if self._start is None:
            self.change.values.zero_()
        else:
            self.change.values.copy_(self._start)
        found = self.check(recorded)
        self.change.values.copy_(trained)
        return found

    def train(self, recorded: Recorded) -> None:
        """Train until every row is confident, no step helps any more, or all steps are taken.

        In each round, the rows that are not confident are put in batches of similar length, and
        each batch takes a step. After some steps, and when no row is left, all other rows are
        checked, and those that are no longer confident come back. In the second half of the steps
        ``LATE_CONFIDENCE`` suffices, as two similar tokens may have to share the probability.
        """
        count_before, settings = len(self._records), self._settings
        self._records += [record for _, record in recorded]
        all_rows = [
            (r, row) for r, record in enumerate(self._records) for row in range(record.rows)
        ]
        unsure = [(r, row) for r, row in all_rows if r >= count_before]
        max_steps, checked_at = settings.max_steps, self.steps
        recheck_after = RECHECK_AFTER * len(self._records)
        with self._suffix.replaying():
            while unsure and self.steps < max_steps:
                before, visited, unsure = self.steps, unsure, []
                late = self.steps >= max_steps // 2
                confidence = min(settings.confidence, LATE_CONFIDENCE if late else 1.0)
                groups = self._batches(visited)
                for turn in torch.randperm(len(groups), generator=self._generator).tolist():
                    if self.steps == max_steps:
                        break
                    unsure += self._visit(groups[turn], confidence, step_if_unsure=True)
                if self.steps == checked_at:
                    break  # all rows are confident, up to rounding
                # Steps for some rows may undo what other rows have learnt.
                if self.steps < max_steps and (
                    not unsure or self.steps - checked_at >= recheck_after
                ):
                    checked_at = self.steps
                    # Rows that are confident with the present values, or known not to be.
                    judged = {*(visited if self.steps == before else unsure)}
                    for group in self._batches([row for row in all_rows if row not in judged]):
                        unsure += self._visit(group, confidence, step_if_unsure=False)

    def _visit(
        self, rows: Sequence[RowId], confidence: float, *, step_if_unsure: bool
    ) -> list[RowId]:
        """Judge ``rows``, and take a step on them if it is asked for and some are not confident.
        Returns those that were not confident before."""
        by_record = groupby(rows, key=lambda row: row[0])
        joined = Record.joined([(self._records[r], [i for _, i in ids]) for r, ids in by_record])
        with torch.set_grad_enabled(step_if_unsure):
            logits, labels = self._suffix.logits(joined, joined.side(self.change))
        unsure = [rows[i] for i in unsure_rows(joined, logits, labels, confidence)]
        if unsure and step_if_unsure:
            rate = self._rate * (1 - 0.9 * self.steps / self._settings.max_steps)
            self._optimizer.param_groups[0]["lr"] = rate
            step(self._optimizer, self.change.values, F.cross_entropy(logits.float(), labels))
            self.steps += 1
        return unsure

    def _batches(self, rows: Sequence[RowId]) -> list[list[RowId]]:
        """``rows`` in batches of similar length."""
        rows = sorted(rows)
        lengths = [self._records[r].lengths[row] for r, row in rows]
        return [sorted(rows[i] for i in members) for members in _batches(self._base, lengths)]
