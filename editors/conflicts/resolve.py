"""Chooses the heads to prune so that one source wins, by the gain and losses on a dev split.

To prefer memory, context heads are pruned, and the other way round (PH3, arXiv 2402.18154). There
are four rules for the candidates: the top k of a ranking ("top_k"), the same without heads that are
also in the top k of the other ranking ("exclusive"), the first k heads that do not cost too much
when pruned alone ("screened"), and these ordered by their value when pruned alone ("by_value").
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeVar

from editors.conflicts.cases import ConflictCase, Outcome
from editors.conflicts.locality import LIMITS, Battery, by_first_token, exceeds, loss
from editors.conflicts.locate import Ranking
from editors.conflicts.measure import candidate_tokens, first_outcomes
from editors.errors import EditorError
from editors.heads.head_mask import attention_out
from editors.heads.pruning import At, Head, Source
from editors.inference.block_replay import BlockInputs, can_replay
from editors.inference.edited_model import EditedModel
from editors.model.base_model import Base
from editors.model.tokenization import encode_prompts

T = TypeVar("T")

CandidateRule = Literal["top_k", "exclusive", "screened", "by_value"]

GRID = (1, 2, 3, 4, 6, 8, 10, 12)  # numbers of heads
SCREENED = 16  # heads of a ranking that are pruned alone
COSTLY = 0.5  # the largest loss, as a share of its limit, of a screened head when pruned alone
ENOUGH = 0.01  # of the rows: a value that is this near to the largest possible one is as good
PENALTY = 0.02  # of the preferred rate, for a loss as large as its limit
SCREENED_PAIRS = 25  # of each check, for a head that is pruned alone
CHOSEN, ALONE = "chosen", "alone"  # the checks of sets, and of heads that are pruned alone
ROWS = "rows", ""  # the rows with a conflict, beside the checks
STATE_BYTES = 1 << 30  # of the states that forwards begin from

Run = tuple[str, str]
"""What a set of heads is measured on: ``ROWS``, or the name of a battery and a check of it."""

Attach = Callable[[tuple[Head, ...]], AbstractContextManager[EditedModel]]
"""Attaches everything to the base, with these heads pruned."""


@dataclass(frozen=True, slots=True)
class PruneSettings:
    """How heads are pruned, and how many.

    ``heads``: their number, None to choose it from ``GRID``. ``ablation``: the output of a head is
    replaced by "zero" or by its "mean". ``at`` and ``scale``: see
    :class:`~editors.heads.pruning.HeadMask`.
    """

    heads: int | None = None
    at: At = "all"
    ablation: Literal["zero", "mean"] = "zero"
    scale: float = 0.0


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of pruning a set of heads on the dev split, judged by first tokens.

    ``rate``: the share of conflicting rows answered from the preferred source; ``gain``: its
    increase over the unpruned base; ``lost``: by check of locality, how much worse it became. A
    check may run only when its loss is looked up; the first checks take the least time.
    ``complete``: whether all checks have run or still may.
    """

    heads: tuple[Head, ...]
    rule: CandidateRule
    rate: float
    gain: float
    lost: Mapping[str, float]
    complete: bool = True

    @property
    def value(self) -> float:
        """The gain less the penalty, and so never more than the gain. Needs all checks."""
        return self.gain - PENALTY * sum(max(0.0, self.lost[n]) / LIMITS[n] for n in self.lost)

    @property
    def most(self) -> float:
        """The gain of a set of heads that leaves no row to the other source."""
        return self.gain + 1 - self.rate

    @property
    def fits(self) -> bool:
        """Whether no check lost more than its limit."""
        return not any(exceeds(name, lost) for name, lost in self.lost.items())

    def measured(self) -> Trial:
        """The trial with the losses that are known, so that it needs no model any more."""
        if not isinstance(self.lost, Losses):
            return self
        known = dict(self.lost.known)
        return replace(self, lost=known, complete=len(known) == len(self.lost))


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen trial, and all trials, each with the losses that the choice needed."""

    chosen: Trial
    trials: tuple[Trial, ...]


class Losses(Mapping[str, float]):
    """The losses of one set of heads by check. A check runs when it is first looked up."""

    def __init__(self, checks: Sequence[str], run: Callable[[str], float]) -> None:
        self._checks, self._run = checks, run
        self.known: dict[str, float] = {}

    def __getitem__(self, check: str) -> float:
        if check not in self._checks:
            raise KeyError(check)
        if check not in self.known:
            self.known[check] = self._run(check)
        return self.known[check]

    def __iter__(self) -> Iterator[str]:
        return iter(self._checks)

    def __len__(self) -> int:
        return len(self._checks)


class DevSplit:
    """The dev split, and the results of the sets of heads that were tried on it.

    Below the lowest head of a set, a pruned model computes what every other one computes: forwards
    begin there, wherever the states of ``replayed`` layers are known.
    """

    def __init__(
        self,
        base: Base,
        attach: Attach,
        cases: Sequence[ConflictCase],
        battery: Battery,
        prefer: Source,
        replayed: Iterable[int] = (),
        on_forward: Callable[[], None] = lambda: None,
        *,
        with_edits: bool = True,
    ) -> None:
        """``replayed``: the layers of heads that may be pruned; ``on_forward`` is called whenever a
        set of heads has passed the rows or one check. ``with_edits``: edits are attached, which may
        decide otherwise where no head is pruned.

        Raises EditorError if no case has a conflict.
        """
        self._attach, self._prefer = attach, prefer
        self._batteries = {CHOSEN: battery, ALONE: battery.sample(SCREENED_PAIRS)}
        self._cases = [case for case in cases if case.conflicting]
        if not self._cases:
            raise EditorError("no dev row shows a conflict, so no number of heads can be chosen")
        self._checks = [name for name in ("other", *battery.checks) if name in LIMITS]
        self._candidates = candidate_tokens(base, self._cases)
        self._on_forward = on_forward
        self._lowest_unpruned = -1 if with_edits else len(base.architecture.blocks) - 1
        layers = _affordable(base, self._prompts(), replayed)
        runs = [ROWS, *((name, check) for name in self._batteries for check in battery.checks)]
        self._inputs = {run: BlockInputs(base, layers) for run in runs}
        self._outcomes: dict[frozenset[Head], list[Outcome]] = {}
        self._losses: dict[tuple[str, frozenset[Head]], Losses] = {}
        self._before: dict[Run, float] = {}
        self.start = sum(self._won(())) / len(self._cases)

    def error(self, first: tuple[Head, ...], second: tuple[Head, ...]) -> float:
        """The standard error of the difference between the rates of two sets of heads (paired, as
        the rows are the same)."""
        pairs = zip(self._won(first), self._won(second), strict=True)
        differences = [float(a) - float(b) for a, b in pairs]
        return statistics.pstdev(differences) / math.sqrt(len(differences))

    def trial(self, heads: tuple[Head, ...], rule: CandidateRule) -> Trial:
        """A set of heads on the rows; the checks run when they are needed."""
        return self._trial(heads, rule, CHOSEN)

    def alone(self, head: Head) -> Trial:
        """A head that is pruned alone, on the rows and on a sample of each check."""
        return self._trial((head,), "screened", ALONE)

    def _trial(self, heads: tuple[Head, ...], rule: CandidateRule, battery: str) -> Trial:
        won = self._won(heads)
        rate = sum(won) / len(won)
        key = battery, frozenset(heads)
        if key not in self._losses:
            self._losses[key] = Losses(self._checks, partial(self._lost, heads, battery))
        return Trial(heads, rule, rate, rate - self.start, self._losses[key])

    def _won(self, heads: tuple[Head, ...]) -> list[bool]:
        """For each row, whether the preferred source wins."""
        key = frozenset(heads)
        if key not in self._outcomes:
            self._outcomes[key] = self._run(
                heads, ROWS, lambda model: first_outcomes(model, self._cases, self._candidates)
            )
        return [outcome == self._prefer for outcome in self._outcomes[key]]

    def _lost(self, heads: tuple[Head, ...], battery: str, check: str) -> float:
        if check == "other":
            before, after = (self._outcomes[frozenset(key)] for key in ((), heads))
            return (after.count("other") - before.count("other")) / len(after)
        run = battery, check
        if run not in self._before:
            self._before[run] = self._score((), run)
        return loss(check, self._before[run], self._score(heads, run))

    def _score(self, heads: tuple[Head, ...], run: Run) -> float:
        name, check = run
        battery = self._batteries[name]
        return self._run(heads, run, lambda model: battery.score(check, model, by_first_token))

    def _run(self, heads: tuple[Head, ...], run: Run, measure: Callable[[EditedModel], T]) -> T:
        lowest = min((head.layer for head in heads), default=self._lowest_unpruned)
        with self._attach(heads) as model, self._inputs[run].known_up_to(lowest):
            result = measure(model)
        self._on_forward()
        return result

    def _prompts(self) -> list[str]:
        texts = [case.row.prompt for case in self._cases]
        for battery in self._batteries.values():
            texts += [*battery.prompts, *battery.neutral]
        return texts


def _affordable(base: Base, texts: Sequence[str], layers: Iterable[int]) -> tuple[int, ...]:
    """Of ``layers``, as many as there is memory for the states of ``texts``, evenly spread; none
    where a forward cannot begin at a block."""
    wanted = sorted({*layers} - {0})
    if not wanted or not can_replay(base):
        return ()
    tokens = sum(map(len, encode_prompts(base.tokenizer, texts)))
    hidden = attention_out(base, wanted[0]).out_features
    of_layer = tokens * hidden * base.model.dtype.itemsize
    count = min(len(wanted), STATE_BYTES // max(1, of_layer))
    return tuple(wanted[i * len(wanted) // count] for i in range(count))


def choose(dev: DevSplit, ranking: Ranking, prefer: Source, heads: int | None) -> Choice:
    """Choose a set of heads by its value, of the sets within the limits.

    If no set is within the limits, all sets are compared. Of the sets whose value is within one
    standard error of the best, the smallest is chosen. ``heads``: their number, None for ``GRID``.

    Single heads are pruned only if the rankings alone leave more than ``ENOUGH`` to be gained. The
    rows tell the gain of each set. As no value is above its gain, checks run only for sets whose
    gain leaves the choice open.

    Raises:
        EditorError: no head, or fewer than ``heads``, has a score above 0.
    """
    pruned: Source = "context" if prefer == "memory" else "memory"
    ranked, others = ranking.top(pruned), ranking.top(prefer)
    trials: list[Trial] = []

    def add(rule: CandidateRule, candidates: Callable[[int], list[Head]]) -> None:
        for count in (heads,) if heads is not None else GRID:
            chosen = candidates(count)
            too_few = heads is not None and len(chosen) < heads
            if chosen and not too_few and not any(set(chosen) == set(t.heads) for t in trials):
                trials.append(dev.trial(tuple(chosen), rule))

    add("top_k", lambda count: ranked[:count])
    add("exclusive", lambda count: [h for h in ranked[:count] if h not in others[:count]])
    best = _best(dev, trials, lambda trial: trial.fits)
    if best is None or best.value < best.most - ENOUGH:
        screened = _screened(dev, ranked[:SCREENED])
        by_value = sorted(screened, key=lambda head: -dev.alone(head).value)
        add("screened", lambda count: screened[:count])
        add("by_value", lambda count: by_value[:count])
        best = _best(dev, trials, lambda trial: trial.fits)
    best = best or _best(dev, trials, lambda _: True)
    if best is None:
        raise EditorError(
            "there are not as many heads with a score above 0", "`--heads auto`, or fewer heads"
        )
    return Choice(best.measured(), tuple(trial.measured() for trial in trials))


def _screened(dev: DevSplit, ranked: Sequence[Head]) -> list[Head]:
    """The heads that cost little when pruned alone, in their order.

    The highest layers come first: the states below them are kept for the others.
    """
    order = sorted(ranked, key=lambda head: -head.layer)
    cheap = {head for head in order if _is_cheap(dev.alone(head))}
    return [head for head in ranked if head in cheap]


def _is_cheap(trial: Trial) -> bool:
    """Whether no loss is a large share of its limit. Answers from neither source ("other") are left
    out."""
    return not any(
        trial.lost[name] / LIMITS[name] > COSTLY for name in trial.lost if name != "other"
    )


def _best(dev: DevSplit, trials: Sequence[Trial], allowed: Callable[[Trial], bool]) -> Trial | None:
    """The smallest of the ``allowed`` trials whose value is within one standard error of the best
    value, and of equally small ones the best; None if no trial is allowed."""
    values: dict[tuple[Head, ...], float] = {}
    for trial in sorted(trials, key=lambda trial: -trial.gain):
        if trial.gain < max(values.values(), default=-math.inf):
            break  # neither this nor any later one is the best
        if allowed(trial):
            values[trial.heads] = trial.value
    if not values:
        return None
    best = max((t for t in trials if t.heads in values), key=lambda trial: trial.value)
    for size in sorted({len(trial.heads) for trial in trials}):
        comparable: list[Trial] = []
        for trial in trials:
            least = best.value - dev.error(best.heads, trial.heads)
            is_open = len(trial.heads) == size and trial.gain >= least
            if is_open and allowed(trial) and trial.value >= least:
                comparable.append(trial)
        if comparable:
            return max(comparable, key=lambda trial: trial.value)
    return best
