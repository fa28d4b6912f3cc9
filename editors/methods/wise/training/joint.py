"""Training the facts of a shard together, on their targets only.

This is the default of this project. The scope signal keeps other prompts out, so the loss has no
margins. The training of the paper is in :mod:`editors.methods.wise.training.sequential`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby, islice

import torch
import torch.nn.functional as F

from editors.inference.batching import Budget, batches
from editors.inference.hidden_states import StateRequest
from editors.methods.training.confidence import (
    least_by_row,
    probabilities,
    rows_answered,
    unsure_rows,
)
from editors.methods.training.records import Record
from editors.methods.training.state_offload import StateOffload
from editors.methods.training.suffix_replay import SuffixReplay, record_states
from editors.methods.wise.shards import Mask
from editors.methods.wise.training.masked_delta import MaskedDelta
from editors.model.base_model import Base
from editors.model.tokenization import Row

BETAS = (0.7, 0.95)  # of Adam; with more momentum, rows take more steps than they need
LATE_CONFIDENCE = 0.9  # suffices in the second half of the steps
RECHECK_AFTER = 4  # steps for each batch; then rows that were confident before are checked again
# Rows of a step. With few rows, each row takes fewer steps until all are confident. Many rows are
# faster on an accelerator.
BATCH_SIZE = {"cpu": 32}
BATCH_SIZE_ELSEWHERE = 64
BATCH_TOKENS = 2048  # of a step, pads included; the memory of a step grows with them

RowId = tuple[int, int]
"""The number of a record among those that are trained, and the number of a row in it."""


@dataclass(frozen=True, slots=True)
class ShardTraining:
    """The result of training a shard.

    ``values``: ``[masked]``, the change of each masked entry, rounded to the dtype that the base
    computes in. ``iterations``: the steps taken. ``failed``: the numbers of the facts whose target
    is not answered with the rounded values. ``threshold``: the smallest routing activation over the
    edits (infinite if not measured).
    """

    values: torch.Tensor
    iterations: int
    failed: tuple[int, ...]
    threshold: float = float("inf")


def batch_size_on(device: torch.device) -> int:
    """The number of rows of a step on ``device``."""
    return BATCH_SIZE.get(device.type, BATCH_SIZE_ELSEWHERE)


@dataclass(frozen=True, slots=True)
class JointSettings:
    """How facts are trained together.

    ``learning_rate`` is in units of the projection's root mean square weight. A row is confident
    when each of its target tokens has at least probability ``confidence``; in the second half of
    ``max_steps``, ``LATE_CONFIDENCE`` suffices if it is less. A step takes at most ``batch_size``
    rows and ``batch_tokens`` tokens.
    """

    max_steps: int
    learning_rate: float
    confidence: float
    batch_size: int = BATCH_SIZE_ELSEWHERE
    batch_tokens: int = BATCH_TOKENS

    @property
    def budget(self) -> Budget:
        return Budget(rows=self.batch_size, tokens=self.batch_tokens)


def train_jointly(
    base: Base,
    facts: Sequence[Sequence[Row]],
    trained_count: int,
    mask: Mask,
    start: torch.Tensor | None,
    settings: JointSettings,
    seed: int,
    memory_bytes: int | None = None,
    request: StateRequest | None = None,
) -> ShardTraining:
    """Train the rows of facts together until each row is confident, or until steps run out.

    ``facts``: the rows of each fact (prompts with targets), the bare prompt first. The first
    ``trained_count`` facts are trained. The others are in the shard already and are only checked: a
    fact is trained again if its bare prompt was confident before and is no longer. So the cost of
    an edit does not grow with the shard. A fact fails if its target is not the greedy answer to its
    bare prompt. ``start``: ``[masked]``, the values to start from, None for zeros; entries outside
    the mask do not change. ``seed``: of the order of batches. ``memory_bytes``: the bytes of
    recorded states that stay in memory, None for all. ``request``: states read in the first
    recording.

    Raises:
        EditorError: training gave values that are not finite.
    """
    record_rows = partial(_record_rows, base, settings, StateOffload(memory_bytes))
    with ThreadPoolExecutor(1) as executor:
        # Drawing and moving the mask of a large layer takes as long as recording does.
        drawing = executor.submit(lambda: mask.entries().to(base.device))
        trained_rows = [row for rows in facts[:trained_count] for row in rows]
        checked_rows = [rows[0] for rows in facts[trained_count:]]
        trained, checked = record_rows(trained_rows, checked_rows, request=request)
    weight = base.projection.weight(base.model)
    training = _JointTraining(weight, drawing.result(), start, settings, seed)
    del drawing  # the entries of a large layer take much memory
    bare_rows = [0, *accumulate(len(rows) for rows in facts[:trained_count])][:trained_count]
    enough = min(settings.confidence, LATE_CONFIDENCE)
    sure_before: set[int] | None = None  # numbers of checked facts; found only if it matters
    training.train(trained)
    while True:
        least_probabilities, correct = training.check(checked)
        unsure = [
            i for i, probability in enumerate(least_probabilities) if not probability >= enough
        ]
        if not unsure or training.steps >= settings.max_steps:
            break
        if sure_before is None:
            at_start, _ = training.check_at_start(checked)
            sure_before = {i for i, probability in enumerate(at_start) if probability >= enough}
        forgotten = [i for i in unsure if i in sure_before]
        if not forgotten:
            break
        sure_before -= set(forgotten)
        [retrained] = record_rows([row for i in forgotten for row in facts[trained_count + i]])
        training.train(retrained)
    # If steps are left, all trained rows are confident, and a token above 0.5 is the likeliest.
    all_sure = training.steps < settings.max_steps and settings.confidence > 0.5
    correct = (
        [True] * trained_count if all_sure else training.check(trained, bare_rows)[1]
    ) + correct
    failed = tuple(i for i, ok in enumerate(correct) if not ok)
    return ShardTraining(training.change.result(), training.steps, failed)


@dataclass(frozen=True, slots=True)
class _RecordedRows:
    """Rows that have been recorded. ``batches``: their numbers, in batches of similar length;
    ``suffix``: one record for each batch."""

    batches: list[list[int]]
    suffix: SuffixReplay

    @property
    def rows(self) -> range:
        return range(sum(map(len, self.batches)))


def _record_rows(
    base: Base,
    settings: JointSettings,
    offload: StateOffload,
    *parts: Sequence[Row],
    request: StateRequest | None = None,
) -> list[_RecordedRows]:
    """Record the rows of each part, in separate batches."""
    grouped = [batches([len(row.ids) for row in part], settings.budget) for part in parts]
    padded = [
        base.batch([part[i] for i in group])
        for part, groups in zip(parts, grouped, strict=True)
        for group in groups
    ]
    suffix = record_states(base, padded, offload, request=request)
    records = iter(suffix.records)
    return [_RecordedRows(g, suffix.with_records(list(islice(records, len(g))))) for g in grouped]


class _JointTraining:
    """The values of a shard during training, their optimiser, and the number of steps so far."""

    def __init__(
        self,
        weight: torch.Tensor,
        entries: torch.Tensor,
        start: torch.Tensor | None,
        settings: JointSettings,
        seed: int,
    ) -> None:
        """``weight``: ``[out, in]``, of the projection; ``entries``: bool ``[out, in]``, the mask;
        ``start``: ``[masked]``, None for zeros."""
        self._settings, self._start = settings, start
        self._rate = settings.learning_rate * float(weight.float().square().mean().sqrt())
        self._generator = torch.Generator().manual_seed(seed)
        self.change = MaskedDelta(entries, start, weight)
        self._optimizer = torch.optim.Adam([self.change.values], lr=self._rate, betas=BETAS)
        self._records: list[Record] = []
        self.steps = 0

    def check(
        self, recorded: _RecordedRows, rows: Sequence[int] | None = None
    ) -> tuple[list[float], list[bool]]:
        """For each of ``rows`` (by default all rows): the probability of its least likely label,
        and whether all its labels are the likeliest tokens."""
        rows = recorded.rows if rows is None else rows
        wanted = set(rows)
        smallest: dict[int, float] = {}
        correct: dict[int, bool] = {}
        with recorded.suffix.replaying():
            for members, record in zip(recorded.batches, recorded.suffix.records, strict=True):
                positions = [position for position, row in enumerate(members) if row in wanted]
                if not positions:
                    continue
                selected = record.of_rows(positions)
                logits, labels = self._logits(recorded.suffix, selected)
                numbers = [members[position] for position in positions]
                least_probabilities = least_by_row(selected, probabilities(logits, labels))
                smallest |= zip(numbers, least_probabilities, strict=True)
                correct |= zip(numbers, rows_answered(selected, logits, labels), strict=True)
        return [smallest[row] for row in rows], [correct[row] for row in rows]

    @torch.no_grad()
    def check_at_start(self, recorded: _RecordedRows) -> tuple[list[float], list[bool]]:
        """The result of :meth:`check` for the values at the start of training."""
        values = self.change.values
        trained = values.clone()
        if self._start is None:
            values.zero_()
        else:
            values.copy_(self._start)
        result = self.check(recorded)
        values.copy_(trained)
        return result

    def train(self, recorded: _RecordedRows) -> None:
        """Train until every row is confident, no step helps any more, or all steps are taken.

        In each round, the rows that are not confident are put in batches of similar length, and
        each batch takes a step. After some steps, and when no row is left, all other rows are
        checked, and those that are no longer confident come back. In the second half of the steps
        ``LATE_CONFIDENCE`` suffices, as two similar tokens may have to share the probability.
        """
        count_before, settings = len(self._records), self._settings
        self._records += recorded.suffix.records
        suffix = recorded.suffix.with_records(self._records)
        all_rows = [
            (r, row) for r, record in enumerate(self._records) for row in range(record.rows)
        ]
        unsure = [(r, row) for r, row in all_rows if r >= count_before]
        max_steps, checked_at = settings.max_steps, self.steps
        recheck_after = RECHECK_AFTER * len(self._records)
        with suffix.replaying():
            while unsure and self.steps < max_steps:
                before, visited = self.steps, unsure
                late = self.steps >= max_steps // 2
                confidence = (
                    min(settings.confidence, LATE_CONFIDENCE) if late else settings.confidence
                )
                unsure = []
                groups = self._batches(visited)
                for turn in torch.randperm(len(groups), generator=self._generator).tolist():
                    if self.steps == max_steps:
                        break
                    unsure += self._step(suffix, groups[turn], confidence)
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
                        unsure += self._unsure(suffix, group, confidence)

    def _step(self, suffix: SuffixReplay, rows: Sequence[RowId], confidence: float) -> list[RowId]:
        """Take a step on all of ``rows`` if some are not confident. Returns those rows."""
        joined = self._joined(rows)
        logits, labels = suffix.logits(joined, joined.side(self.change))
        unsure = [rows[i] for i in unsure_rows(joined, logits, labels, confidence)]
        if unsure:
            rate = self._rate * (1 - 0.9 * self.steps / self._settings.max_steps)
            self._optimizer.param_groups[0]["lr"] = rate
            step(self._optimizer, self.change, F.cross_entropy(logits.float(), labels))
            self.steps += 1
        return unsure

    def _unsure(
        self, suffix: SuffixReplay, rows: Sequence[RowId], confidence: float
    ) -> list[RowId]:
        """The rows that are not confident."""
        joined = self._joined(rows)
        return [rows[i] for i in unsure_rows(joined, *self._logits(suffix, joined), confidence)]

    def _batches(self, rows: Sequence[RowId]) -> list[list[RowId]]:
        """``rows`` in batches of similar length."""
        rows = sorted(rows)
        lengths = [self._records[r].lengths[row] for r, row in rows]
        return [
            sorted(rows[i] for i in members) for members in batches(lengths, self._settings.budget)
        ]

    def _joined(self, rows: Sequence[RowId]) -> Record:
        """Rows of several records as one record."""
        by_record = groupby(rows, key=lambda row: row[0])
        return Record.joined(
            [
                (self._records[r], [row for _, row in record_row_ids])
                for r, record_row_ids in by_record
            ]
        )

    @torch.no_grad()
    def _logits(self, suffix: SuffixReplay, record: Record) -> tuple[torch.Tensor, torch.Tensor]:
        return suffix.logits(record, record.side(self.change))


def step(optimizer: torch.optim.Optimizer, change: MaskedDelta, loss: torch.Tensor) -> None:
    """One step of ``optimizer`` on the values of ``change``."""
    optimizer.zero_grad()
    torch.autograd.backward(loss, inputs=[change.values])  # not the base's parameters
    optimizer.step()
