"""Chooses the heads to prune so that one source wins, by the gain and losses on a dev split.

To prefer memory, context heads are pruned, and the other way round (PH3, arXiv 2402.18154). There
are four rules for the candidates: the top k of a ranking ("top_k"), the same without heads that are
also in the top k of the other ranking ("exclusive"), the first k heads that do not cost too much
when pruned alone ("screened"), and these ordered by their value when pruned alone ("by_value").
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from editors.conflicts.cases import ConflictCase
from editors.conflicts.locality import LIMITS, Battery, beyond, by_first_token, losses
from editors.conflicts.locate import Ranking
from editors.conflicts.measure import candidate_tokens, first_outcomes
from editors.errors import EditorError
from editors.heads.pruning import At, Head, Source
from editors.inference.edited_model import EditedModel
from editors.model.base_model import Base

CandidateRule = Literal["top_k", "exclusive", "screened", "by_value"]

GRID = (1, 2, 3, 4, 6, 8, 10, 12)  # numbers of heads
SCREENED = 16  # heads of a ranking that are pruned alone
COSTLY = 0.5  # the largest loss, as a share of its limit, of a screened head when pruned alone
PENALTY = 0.02  # of the preferred rate, for a loss as large as its limit

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
    increase over the unpruned base; ``lost``: by check of locality, how much worse it became;
    ``value``: the gain less the penalty.
    """

    heads: tuple[Head, ...]
    rule: CandidateRule
    rate: float
    gain: float
    lost: Mapping[str, float]

    @property
    def value(self) -> float:
        return self.gain - PENALTY * sum(max(0.0, self.lost[n]) / LIMITS[n] for n in self.lost)

    @property
    def fits(self) -> bool:
        """Whether no check lost more than its limit."""
        return not beyond(self.lost)


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen trial, and all trials."""

    chosen: Trial
    trials: tuple[Trial, ...]


class DevSplit:
    """The dev split, and the results of the sets of heads that were tried on it."""

    def __init__(
        self,
        base: Base,
        attach: Attach,
        cases: Sequence[ConflictCase],
        battery: Battery,
        prefer: Source,
    ) -> None:
        """Raises EditorError if no case has a conflict."""
        self._attach, self._battery = attach, battery
        self._cases = [case for case in cases if case.conflicting]
        if not self._cases:
            raise EditorError("no dev row shows a conflict, so no number of heads can be chosen")
        self._candidates = candidate_tokens(base, self._cases)
        self._prefer = prefer
        self._tried: dict[frozenset[Head], tuple[list[bool], dict[str, float]]] = {}
        won, self._before = self._try(())
        self.start = sum(won) / len(won)

    def error(self, first: tuple[Head, ...], second: tuple[Head, ...]) -> float:
        """The standard error of the difference between the rates of two sets of heads (paired, as
        the rows are the same)."""
        pairs = zip(self._try(first)[0], self._try(second)[0], strict=True)
        differences = [float(a) - float(b) for a, b in pairs]
        return statistics.pstdev(differences) / math.sqrt(len(differences))

    def trial(self, heads: tuple[Head, ...], rule: CandidateRule) -> Trial:
        won, after = self._try(heads)
        rate = sum(won) / len(won)
        return Trial(heads, rule, rate, rate - self.start, losses(self._before, after))

    def _try(self, heads: tuple[Head, ...]) -> tuple[list[bool], dict[str, float]]:
        """For each row, whether the preferred source wins; and the score of each check."""
        key = frozenset(heads)
        if key not in self._tried:
            with self._attach(heads) as model:
                scores = self._battery.scores(model, by_first_token)
                outcomes = first_outcomes(model, self._cases, self._candidates)
            scores["other"] = outcomes.count("other") / len(outcomes)
            self._tried[key] = [outcome == self._prefer for outcome in outcomes], scores
        return self._tried[key]


def choose(dev: DevSplit, ranking: Ranking, prefer: Source, heads: int | None) -> Choice:
    """Choose a set of heads by its value, of the sets within the limits.

    If no set is within the limits, all sets are compared. Of the sets whose value is within one
    standard error of the best, the smallest is chosen. ``heads``: their number, None for ``GRID``.

    Raises:
        EditorError: no head, or fewer than ``heads``, has a score above 0.
    """
    pruned: Source = "context" if prefer == "memory" else "memory"
    ranked, others = ranking.top(pruned), ranking.top(prefer)
    alone = {head: dev.trial((head,), "screened") for head in ranked[:SCREENED]}
    screened = [head for head, trial in alone.items() if _cost(trial) <= COSTLY]
    by_value = sorted(screened, key=lambda head: -alone[head].value)
    trials: list[Trial] = []
    for count in (heads,) if heads is not None else GRID:
        candidates: dict[CandidateRule, list[Head]] = {
            "top_k": ranked[:count],
            "exclusive": [head for head in ranked[:count] if head not in others[:count]],
            "screened": screened[:count],
            "by_value": by_value[:count],
        }
        for rule, chosen in candidates.items():
            too_few = heads is not None and len(chosen) < heads
            if chosen and not too_few and not any(set(chosen) == set(t.heads) for t in trials):
                trials.append(dev.trial(tuple(chosen), rule))
    if not trials:
        raise EditorError(
            "there are not as many heads with a score above 0", "`--heads auto`, or fewer heads"
        )
    allowed = [trial for trial in trials if trial.fits] or trials
    best = max(allowed, key=lambda trial: trial.value)
    comparable = [
        trial for trial in allowed if trial.value >= best.value - dev.error(best.heads, trial.heads)
    ]
    return Choice(
        min(comparable, key=lambda trial: (len(trial.heads), -trial.value)), tuple(trials)
    )


def _cost(trial: Trial) -> float:
    """The largest loss as a share of its limit. Answers from neither source ("other") are left
    out."""
    return max((lost / LIMITS[n] for n, lost in trial.lost.items() if n != "other"), default=0.0)
