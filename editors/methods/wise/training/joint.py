"""Training a shard: the values on its mask, by gradient, through the recorded suffix.

Two ways. ``jointly`` is the default: the facts of a shard together, on the target alone, because
the router keeps scope. ``in_order`` is the paper's: one edit after the other, with the losses
that teach the routing activation (WISE Eq. 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby, islice

import torch
import torch.nn.functional as F

from editors.inference.hidden_states import Asked
from editors.methods.training.state_offload import Spool
from editors.methods.training.suffix_replay import Record, Suffix
from editors.methods.wise.shards import Mask
from editors.methods.wise.training.masked_delta import MaskedChange
from editors.model.base_model import Base
from editors.model.tokenization import Row
from editors.scope.base import activations

Place = tuple[int, int]  # a record among those that are learnt, and a row of it

BETAS = (0.7, 0.95)  # of Adam; with more inertia rows take more steps than they need
LATE_CONFIDENCE = 0.9  # enough in the second half of the steps
# Rows of a step. Few take fewer visits each till all are sure, many are faster on an accelerator.
ROWS_AT_ONCE = {"cpu": 32}
ROWS_AT_ONCE_ELSEWHERE = 64
LOOK_AGAIN = 4  # steps for each group after which rows that dropped out are looked at again


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


def rows_on(device: torch.device) -> int:
    """How many rows a step takes at once there."""
    return ROWS_AT_ONCE.get(device.type, ROWS_AT_ONCE_ELSEWHERE)


@dataclass(frozen=True, slots=True)
class JointSettings:
    """How facts are trained together.

    ``learning_rate`` is in units of the projection's root mean square weight; rows are done when
    each of their target tokens has at least probability ``confidence`` (``LATE_CONFIDENCE``, if
    that is less, in the second half of ``max_steps``). A step takes so many rows, and so many
    tokens with their pads, at most: the memory that it needs grows with them.
    """

    max_steps: int
    learning_rate: float
    confidence: float
    rows_at_once: int = ROWS_AT_ONCE_ELSEWHERE
    tokens_at_once: int = 2048


def jointly(
    base: Base,
    facts: Sequence[Sequence[Row]],
    taught: int,
    mask: Mask,
    start: torch.Tensor | None,
    settings: JointSettings,
    seed: int,
    memory: int | None = None,
    along: Asked | None = None,
) -> Outcome:
    """Train the rows of facts together until each is answered with confidence, or steps run out.

    ``facts``: of each fact its rows, prompts with targets, the bare prompt first. The first
    ``taught`` of them are trained. The others, which the values hold from before, are looked at
    after: one whose bare prompt has lost its sure answer is trained as well, so that an edit costs
    what it spoils and not what the shard holds. A fact fails when its target is not
    the greedy answer to its bare prompt. ``start``: ``[masked]``, None for zeros. Entries outside
    the mask are not touched. ``memory``: bytes of recorded states that are held in memory.
    ``along``: what the first recording may take along.
    """
    record = partial(_record, base, settings, Spool(memory))
    with ThreadPoolExecutor(1) as beside:
        # Drawing a large layer's mask and moving it there takes as long as recording does.
        entries = beside.submit(lambda: mask.entries().to(base.device))
        taught_rows = [row for rows in facts[:taught] for row in rows]
        held_rows = [rows[0] for rows in facts[taught:]]
        lesson, held = record(taught_rows, held_rows, along=along)
    weight = base.projection.weight(base.model)
    training = _Joint(weight, entries.result(), start, settings, seed)
    del entries  # a large layer's take room
    bare = [0, *accumulate(len(rows) for rows in facts[:taught])][:taught]
    enough = min(settings.confidence, LATE_CONFIDENCE)
    sure: list[int] | None = None  # of the held ones, before; not asked until it matters
    training.learn(lesson)
    while True:
        chances, right = training.look(held)
        weak = [i for i, chance in enumerate(chances) if not chance >= enough]
        if not weak or training.steps >= settings.max_steps:
            break
        if sure is None:
            at_first, _ = training.look_at_first(held)
            sure = [i for i, chance in enumerate(at_first) if chance >= enough]
        spoilt = [i for i in weak if i in sure]
        if not spoilt:
            break
        sure = [i for i in sure if i not in spoilt]
        [again] = record([row for i in spoilt for row in facts[taught + i]])
        training.learn(again)
    # Steps are left only where all that was taught is sure, and what is likelier than not is right.
    known = training.steps < settings.max_steps and settings.confidence > 0.5
    right = ([True] * taught if known else training.look(lesson, bare)[1]) + right
    failed = tuple(i for i, ok in enumerate(right) if not ok)
    return Outcome(training.change.learnt(), training.steps, failed)


@dataclass(frozen=True, slots=True)
class _Recorded:
    """Rows in groups of like length, and what their suffix needs; ``groups[g]``: which rows."""

    groups: list[list[int]]
    suffix: Suffix

    @property
    def rows(self) -> range:
        return range(sum(map(len, self.groups)))


def _record(
    base: Base,
    settings: JointSettings,
    spool: Spool,
    *parts: Sequence[Row],
    along: Asked | None = None,
) -> list[_Recorded]:
    """Run the rows up to the edited projection, each part in groups of its own."""
    grouped = [_alike([len(row.ids) for row in part], settings) for part in parts]
    batches = [
        base.batch([part[i] for i in group])
        for part, groups in zip(parts, grouped, strict=True)
        for group in groups
    ]
    if batches:
        whole = Suffix.record(
            base.model, base.architecture, base.layer, batches, spool, along=along
        )
    else:
        whole = Suffix(base.model, base.architecture, base.layer, [], {})
    records = iter(whole.records)
    return [_Recorded(g, whole.holding(list(islice(records, len(g))))) for g in grouped]


class _Joint:
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
        self.change = MaskedChange(entries, start, weight)
        self._optimizer = torch.optim.Adam([self.change.values], lr=self._rate, betas=BETAS)
        self._learnt: list[Record] = []
        self.steps = 0

    def look(
        self, recorded: _Recorded, rows: Sequence[int] | None = None
    ) -> tuple[list[float], list[bool]]:
        """For each of ``rows``, by default all, the chance of its least likely label, and whether
        all are the likeliest."""
        rows = recorded.rows if rows is None else rows
        if not rows:
            return [], []
        wanted = set(rows)
        found: dict[int, tuple[float, bool]] = {}
        with recorded.suffix.replaying():
            for members, record in zip(recorded.groups, recorded.suffix.records, strict=True):
                places = [place for place, row in enumerate(members) if row in wanted]
                if not places:
                    continue
                part = record.of_rows(places)
                logits, labels = self._logits(recorded.suffix, part)
                likeliest = (logits.argmax(-1) == labels).float()
                least = _of_rows(part, _chances(logits, labels)).tolist()
                all_right = _of_rows(part, likeliest).bool().tolist()
                seen = zip(least, all_right, strict=True)
                found.update(zip((members[place] for place in places), seen, strict=True))
        return [found[row][0] for row in rows], [found[row][1] for row in rows]

    @torch.no_grad()
    def look_at_first(self, recorded: _Recorded) -> tuple[list[float], list[bool]]:
        """As :meth:`look` has it, with the values that training began with."""
        values = self.change.values
        now = values.clone()
        if self._start is None:
            values.zero_()
        else:
            values.copy_(self._start)
        seen = self.look(recorded)
        values.copy_(now)
        return seen

    def learn(self, recorded: _Recorded) -> None:
        """Steps on the rows, beside all that were learnt before, until all are sure, none can be
        taken any more, or they run out.

        In rounds: the rows that are not sure are put in groups of like length, and each group takes
        a step. After so many steps, and once none is left, those that later steps have spoilt come
        back. In the second half of the steps less confidence will do: a token with a near twin may
        never get all of it.
        """
        known, settings = len(self._learnt), self._settings
        self._learnt += recorded.suffix.records
        suffix = recorded.suffix.holding(self._learnt)
        taught = [(g, row) for g, one in enumerate(self._learnt) for row in range(one.rows)]
        unsure = [(g, row) for g, row in taught if g >= known]
        most, looked = settings.max_steps, self.steps
        again = LOOK_AGAIN * len(self._learnt)
        with suffix.replaying():
            while unsure and self.steps < most:
                before, visited = self.steps, unsure
                late = self.steps >= most // 2
                wanted = min(settings.confidence, LATE_CONFIDENCE) if late else settings.confidence
                unsure = []
                groups = self._alike(visited)
                for turn in torch.randperm(len(groups), generator=self._generator).tolist():
                    if self.steps == most:
                        break
                    unsure += self._visited(suffix, groups[turn], wanted)
                if self.steps == looked:
                    break  # all are sure, give or take the last bits
                # Steps for some rows may spoil what others had learnt.
                if self.steps < most and (not unsure or self.steps - looked >= again):
                    looked = self.steps
                    # Sure as the values are now, or known not to be.
                    seen = {*(visited if self.steps == before else unsure)}
                    for group in self._alike([row for row in taught if row not in seen]):
                        unsure += self._unsure(suffix, group, wanted)

    def _visited(self, suffix: Suffix, places: Sequence[Place], wanted: float) -> list[Place]:
        """Those of some rows that are not sure; if there are any, after a step on all of them."""
        record = self._joined(places)
        logits, labels = suffix.logits(record, record.side(self.change))
        weak = [places[row] for row in _weak(record, logits, labels, wanted)]
        if weak:
            now = self._rate * (1 - 0.9 * self.steps / self._settings.max_steps)
            self._optimizer.param_groups[0]["lr"] = now
            _step(self._optimizer, self.change, F.cross_entropy(logits.float(), labels))
            self.steps += 1
        return weak

    def _unsure(self, suffix: Suffix, places: Sequence[Place], wanted: float) -> list[Place]:
        """Those of some rows that are not sure."""
        record = self._joined(places)
        return [places[row] for row in _weak(record, *self._logits(suffix, record), wanted)]

    def _alike(self, places: Sequence[Place]) -> list[list[Place]]:
        """Rows of what is learnt in groups of like length."""
        places = sorted(places)
        lengths = [self._learnt[g].lengths[row] for g, row in places]
        return [sorted(places[i] for i in group) for group in _alike(lengths, self._settings)]

    def _joined(self, places: Sequence[Place]) -> Record:
        """Rows of what is learnt, as one record."""
        parts = groupby(places, key=lambda place: place[0])
        return Record.joined([(self._learnt[g], [row for _, row in part]) for g, part in parts])

    @torch.no_grad()
    def _logits(self, suffix: Suffix, record: Record) -> tuple[torch.Tensor, torch.Tensor]:
        return suffix.logits(record, record.side(self.change))


def _alike(lengths: Sequence[int], settings: JointSettings) -> list[list[int]]:
    """Rows in groups of like length, the shortest first; a row that is too long alone is alone."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        last = groups[-1] if groups else []
        most = min(settings.rows_at_once, settings.tokens_at_once // lengths[row])
        if not last or len(last) >= most:
            groups.append([])
        groups[-1].append(row)
    return groups


def _step(optimizer: torch.optim.Optimizer, change: MaskedChange, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    torch.autograd.backward(loss, inputs=[change.values])  # not the base's parameters
    optimizer.step()


def _weak(record: Record, logits: torch.Tensor, labels: torch.Tensor, wanted: float) -> list[int]:
    """The rows of ``record`` with a label less likely than ``wanted``, or of no chance at all
    (NaN), in order."""
    sure = _of_rows(record, _chances(logits, labels)) >= wanted
    rows: list[int] = (~sure).nonzero()[:, 0].tolist()
    return rows


def _of_rows(record: Record, of_labels: torch.Tensor) -> torch.Tensor:
    """float32 ``[rows]``, on the CPU: the smallest of ``of_labels`` ``[labels]``, of values up to
    1, in each row of ``record``."""
    rows = record.labelled[0].cpu()
    return torch.ones(record.rows).scatter_reduce(0, rows, of_labels.cpu(), "amin")


def _chances(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """float32 ``[labels]``: the probability of each label."""
    return logits.detach().float().softmax(-1).gather(1, labels[:, None])[:, 0]


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
    memory: int | None = None,
) -> Outcome:
    """One edit after the other, each from where the last one left the values (WISE Alg. 1).

    ``edits``: for each edit its bare prompt with the target, then the same after prefixes;
    ``irrelevant``: prompts (no labels) that must stay below the margin. The threshold is the
    smallest activation of a bare prompt, each measured after its own edit. ``memory``: as for
    ``jointly``.
    """
    change = MaskedChange(mask.entries(), start, base.projection.weight(base.model))
    [calm] = Suffix.record(
        base.model, base.architecture, base.layer, [base.batch(irrelevant)]
    ).records
    steps, failed, threshold = 0, [], float("inf")
    for number, rows in enumerate(edits):
        batches = [base.batch(rows)]
        spool = Spool(memory)  # an edit's states are done with when the next begins
        suffix = Suffix.record(base.model, base.architecture, base.layer, batches, spool)
        [record] = suffix.records
        optimizer = torch.optim.SGD([change.values], lr=settings.learning_rate)
        with suffix.replaying():
            for _ in range(settings.max_steps):
                side = record.side(change)
                logits, labels = suffix.logits(record, side)
                margins = margin_loss(
                    _activations(record, side), _activations(calm, calm.side(change)), settings
                )
                loss = F.cross_entropy(logits.float(), labels) + margins.to(logits.device)
                if float(loss.detach()) <= settings.enough:
                    break
                _step(optimizer, change, loss)
                steps += 1
            with torch.no_grad():
                side = record.side(change)
                logits, labels = suffix.logits(record, side)
                bare = record.labelled[0].to(labels.device) == 0
                right = (logits.argmax(-1) == labels)[bare]
                threshold = min(threshold, float(_activations(record, side)[0]))
        if not bool(right.all()):
            failed.append(number)
    return Outcome(change.learnt(), steps, tuple(failed), threshold)


def _activations(record: Record, side: torch.Tensor) -> torch.Tensor:
    """``[rows]``: the routing activation of each recorded row, over its prompt tokens."""
    return activations(side.float(), record.batch.prompt_lengths)
