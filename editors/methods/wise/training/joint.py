"""Training the facts of a shard together, on their targets alone, because the scope keeps others
out.

The default of this project; the paper's own way is :mod:`editors.methods.wise.training.sequential`.
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
from editors.methods.training.suffix_replay import SuffixReplay, record
from editors.methods.wise.shards import Mask
from editors.methods.wise.training.masked_delta import MaskedDelta
from editors.model.base_model import Base
from editors.model.tokenization import Row

BETAS = (0.7, 0.95)  # of Adam; with more inertia rows take more steps than they need
LATE_CONFIDENCE = 0.9  # enough in the second half of the steps
RECHECK_AFTER = 4  # steps for each batch, after which rows that dropped out are checked again
# Rows of a step. Few take fewer visits each until all are sure, many are faster on an accelerator.
BATCH_SIZE = {"cpu": 32}
BATCH_SIZE_ELSEWHERE = 64
BATCH_TOKENS = 2048  # of a step, with pads: the memory that it needs grows with them

RowId = tuple[int, int]
"""A record, by its number among those that are trained, and a row of it."""


@dataclass(frozen=True, slots=True)
class ShardTraining:
    """What training gave: the values on the mask, the steps taken, the facts that failed.

    ``values``: ``[masked]``, rounded to the dtype that the base computes in, which is all that it
    will see of them; what failed is judged after that. ``failed``: numbers of facts. ``threshold``:
    the smallest routing activation over the edits (infinite where not measured).
    """

    values: torch.Tensor
    iterations: int
    failed: tuple[int, ...]
    threshold: float = float("inf")


def batch_size_on(device: torch.device) -> int:
    """How many rows a step takes there."""
    return BATCH_SIZE.get(device.type, BATCH_SIZE_ELSEWHERE)


@dataclass(frozen=True, slots=True)
class JointSettings:
    """How facts are trained together.

    ``learning_rate`` is in units of the projection's root mean square weight. A row is done when
    each of its target tokens has at least probability ``confidence`` (``LATE_CONFIDENCE``, if that
    is less, in the second half of ``max_steps``). A step takes at most ``batch_size`` rows and
    ``batch_tokens`` tokens.
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
    taught: int,
    mask: Mask,
    start: torch.Tensor | None,
    settings: JointSettings,
    seed: int,
    memory_bytes: int | None = None,
    request: StateRequest | None = None,
) -> ShardTraining:
    """Train the rows of facts together until each is answered with confidence, or steps run out.

    ``facts``: of each fact its rows, prompts with targets, the bare prompt first. The first
    ``taught`` of them are trained. The others, which the values hold from before, are checked
    afterwards: one whose bare prompt has lost its sure answer is trained as well, so that an edit
    costs what it spoils and not what the shard holds. A fact fails when its target is not the
    greedy answer to its bare prompt. ``start``: ``[masked]``, None for zeros; entries outside the
    mask are not touched. ``memory_bytes``: recorded states that are held in memory. ``request``:
    states that the first recording takes along.
    """
    recorded = partial(_recorded, base, settings, StateOffload(memory_bytes))
    with ThreadPoolExecutor(1) as beside:
        # Drawing a large layer's mask and moving it there takes as long as recording does.
        entries = beside.submit(lambda: mask.entries().to(base.device))
        taught_rows = [row for rows in facts[:taught] for row in rows]
        held_rows = [rows[0] for rows in facts[taught:]]
        lesson, held = recorded(taught_rows, held_rows, request=request)
    weight = base.projection.weight(base.model)
    training = _JointTraining(weight, entries.result(), start, settings, seed)
    del entries  # a large layer's take room
    bare = [0, *accumulate(len(rows) for rows in facts[:taught])][:taught]
    enough = min(settings.confidence, LATE_CONFIDENCE)
    sure_before: set[int] | None = None  # of the held ones; not asked until it matters
    training.train(lesson)
    while True:
        sure, right = training.check(held)
        weak = [i for i, probability in enumerate(sure) if not probability >= enough]
        if not weak or training.steps >= settings.max_steps:
            break
        if sure_before is None:
            at_start, _ = training.check_at_start(held)
            sure_before = {i for i, probability in enumerate(at_start) if probability >= enough}
        spoilt = [i for i in weak if i in sure_before]
        if not spoilt:
            break
        sure_before -= set(spoilt)
        [again] = recorded([row for i in spoilt for row in facts[taught + i]])
        training.train(again)
    # Steps are left only where all that was taught is sure, and what is likelier than not is right.
    all_sure = training.steps < settings.max_steps and settings.confidence > 0.5
    right = ([True] * taught if all_sure else training.check(lesson, bare)[1]) + right
    failed = tuple(i for i, ok in enumerate(right) if not ok)
    return ShardTraining(training.change.result(), training.steps, failed)


@dataclass(frozen=True, slots=True)
class _Recorded:
    """Rows in batches of like length, and what their suffix needs; ``batches[b]``: which rows."""

    batches: list[list[int]]
    suffix: SuffixReplay

    @property
    def rows(self) -> range:
        return range(sum(map(len, self.batches)))


def _recorded(
    base: Base,
    settings: JointSettings,
    offload: StateOffload,
    *parts: Sequence[Row],
    request: StateRequest | None = None,
) -> list[_Recorded]:
    """Run the rows up to the edited projection, each part in batches of its own."""
    grouped = [batches([len(row.ids) for row in part], settings.budget) for part in parts]
    padded = [
        base.batch([part[i] for i in group])
        for part, groups in zip(parts, grouped, strict=True)
        for group in groups
    ]
    whole = record(base, padded, offload, request=request)
    records = iter(whole.records)
    return [_Recorded(g, whole.with_records(list(islice(records, len(g))))) for g in grouped]


class _JointTraining:
    """A shard's values in training, with their optimiser and the steps taken so far."""

    def __init__(
        self,
        weight: torch.Tensor,
        entries: torch.Tensor,
        start: torch.Tensor | None,
        settings: JointSettings,
        seed: int,
    ) -> None:
        """``weight``: the projection's; ``entries``: bool, of its shape, the shard's own."""
        self._settings, self._start = settings, start
        self._rate = settings.learning_rate * float(weight.float().square().mean().sqrt())
        self._generator = torch.Generator().manual_seed(seed)
        self.change = MaskedDelta(entries, start, weight)
        self._optimizer = torch.optim.Adam([self.change.values], lr=self._rate, betas=BETAS)
        self._records: list[Record] = []
        self.steps = 0

    def check(
        self, recorded: _Recorded, rows: Sequence[int] | None = None
    ) -> tuple[list[float], list[bool]]:
        """For each of ``rows``, by default all, the probability of its least likely label, and
        whether all its labels are the likeliest tokens."""
        rows = recorded.rows if rows is None else rows
        wanted = set(rows)
        least: dict[int, float] = {}
        right: dict[int, bool] = {}
        with recorded.suffix.replaying():
            for members, one in zip(recorded.batches, recorded.suffix.records, strict=True):
                places = [place for place, row in enumerate(members) if row in wanted]
                if not places:
                    continue
                part = one.of_rows(places)
                logits, labels = self._logits(recorded.suffix, part)
                numbers = [members[place] for place in places]
                sure = least_by_row(part, probabilities(logits, labels))
                least |= zip(numbers, sure, strict=True)
                right |= zip(numbers, rows_answered(part, logits, labels), strict=True)
        return [least[row] for row in rows], [right[row] for row in rows]

    @torch.no_grad()
    def check_at_start(self, recorded: _Recorded) -> tuple[list[float], list[bool]]:
        """As :meth:`check`, with the values that training began with."""
        values = self.change.values
        now = values.clone()
        if self._start is None:
            values.zero_()
        else:
            values.copy_(self._start)
        found = self.check(recorded)
        values.copy_(now)
        return found

    def train(self, recorded: _Recorded) -> None:
        """Train until every row reaches the confidence target, no step helps any more, or
        ``max_steps`` is spent. Rows that were trained earlier are checked again.

        In rounds: the rows that are not sure are put in batches of like length, and each batch
        takes a step. After some steps, and once no row is left, those that later steps have spoilt
        come back. In the second half of the steps less confidence will do: a token with a near twin
        may never get all of it.
        """
        known, settings = len(self._records), self._settings
        self._records += recorded.suffix.records
        suffix = recorded.suffix.with_records(self._records)
        all_rows = [(r, row) for r, one in enumerate(self._records) for row in range(one.rows)]
        unsure = [(r, row) for r, row in all_rows if r >= known]
        most, checked_at = settings.max_steps, self.steps
        recheck_after = RECHECK_AFTER * len(self._records)
        with suffix.replaying():
            while unsure and self.steps < most:
                before, visited = self.steps, unsure
                late = self.steps >= most // 2
                wanted = min(settings.confidence, LATE_CONFIDENCE) if late else settings.confidence
                unsure = []
                groups = self._batches(visited)
                for turn in torch.randperm(len(groups), generator=self._generator).tolist():
                    if self.steps == most:
                        break
                    unsure += self._step(suffix, groups[turn], wanted)
                if self.steps == checked_at:
                    break  # all are sure, up to the last bits
                # Steps for some rows may spoil what others had learnt.
                if self.steps < most and (not unsure or self.steps - checked_at >= recheck_after):
                    checked_at = self.steps
                    # Sure as the values are now, or known not to be.
                    judged = {*(visited if self.steps == before else unsure)}
                    for group in self._batches([row for row in all_rows if row not in judged]):
                        unsure += self._unsure(suffix, group, wanted)

    def _step(self, suffix: SuffixReplay, rows: Sequence[RowId], wanted: float) -> list[RowId]:
        """Those of some rows that are not sure; if there are any, after a step on all of them."""
        part = self._joined(rows)
        logits, labels = suffix.logits(part, part.side(self.change))
        weak = [rows[i] for i in unsure_rows(part, logits, labels, wanted)]
        if weak:
            now = self._rate * (1 - 0.9 * self.steps / self._settings.max_steps)
            self._optimizer.param_groups[0]["lr"] = now
            step(self._optimizer, self.change, F.cross_entropy(logits.float(), labels))
            self.steps += 1
        return weak

    def _unsure(self, suffix: SuffixReplay, rows: Sequence[RowId], wanted: float) -> list[RowId]:
        """Those of some rows that are not sure."""
        part = self._joined(rows)
        return [rows[i] for i in unsure_rows(part, *self._logits(suffix, part), wanted)]

    def _batches(self, rows: Sequence[RowId]) -> list[list[RowId]]:
        """Rows in batches of like length."""
        rows = sorted(rows)
        lengths = [self._records[r].lengths[row] for r, row in rows]
        return [sorted(rows[i] for i in part) for part in batches(lengths, self._settings.budget)]

    def _joined(self, rows: Sequence[RowId]) -> Record:
        """Rows of several records, as one record."""
        parts = groupby(rows, key=lambda row: row[0])
        return Record.joined([(self._records[r], [row for _, row in part]) for r, part in parts])

    @torch.no_grad()
    def _logits(self, suffix: SuffixReplay, part: Record) -> tuple[torch.Tensor, torch.Tensor]:
        return suffix.logits(part, part.side(self.change))


def step(optimizer: torch.optim.Optimizer, change: MaskedDelta, loss: torch.Tensor) -> None:
    """One step of ``optimizer`` on the values of ``change``."""
    optimizer.zero_grad()
    torch.autograd.backward(loss, inputs=[change.values])  # not the base's parameters
    optimizer.step()
