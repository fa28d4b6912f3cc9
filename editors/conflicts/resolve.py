"""Which heads to prune so that one source wins: chosen on a dev split, never by the gain alone.

Memory is preferred by pruning context heads, and the other way round (PH3, arXiv 2402.18154). The
candidates are the top k of a ranking ("top_k") and three lists made from it: without the heads that
the other ranking has in its top too ("exclusive"), without those that cost too much when they are
pruned alone ("screened"), and these by what pruning each of them alone is worth ("by_value").
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from editors.conflicts.cases import ConflictCase
from editors.conflicts.locality import LIMITS, Battery, beyond, by_first_token, losses
from editors.conflicts.locate import Ranking
from editors.conflicts.measure import candidate_tokens
from editors.errors import EditorError
from editors.heads.pruning import At, Head, HeadMask, Source
from editors.inference.edited_model import EditedModel
from editors.inference.next_tokens import likeliest
from editors.model.base_model import Base

CandidateRule = Literal["top_k", "exclusive", "screened", "by_value"]

GRID = (1, 2, 3, 4, 6, 8, 10, 12)
SCREENED = 16  # heads of a ranking that are pruned alone to see what each costs
COSTLY = 0.5  # of a limit: what one head may cost alone to stay in the screened list
PENALTY = 0.02  # of the preferred rate, for each limit's worth of loss

Attach = Callable[[HeadMask], AbstractContextManager[EditedModel]]


@dataclass(frozen=True, slots=True)
class PruneSettings:
    """How a set of heads is pruned and how large it may be.

    ``heads``: how many, or None to choose from ``GRID``. ``ablation``: "zero", or "mean" to put a
    head's mean in its place. ``scale``: the factor on what a head writes, 0 to prune it.
    """

    heads: int | None = None
    at: At = "all"
    ablation: Literal["zero", "mean"] = "zero"
    scale: float = 0.0


@dataclass(frozen=True, slots=True)
class Trial:
    """A set of heads on the dev split, judged by first tokens.

    ``rate``: the share of conflicting rows answered from the preferred source, ``gain`` over the
    start; ``lost``: how much worse each check of locality got; ``value``: the gain less the
    penalty.
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
        """No check lost more than its limit."""
        return not beyond(self.lost)

    def to_dict(self) -> dict[str, Any]:
        return {
            "k": len(self.heads),
            "rule": self.rule,
            "heads": [list(head) for head in self.heads],
            "rate": round(self.rate, 6),
            "gain": round(self.gain, 6),
            "lost": {name: _finite(value) for name, value in self.lost.items()},
            "value": _finite(self.value),
            "fits": self.fits,
        }


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Choice:
    """The trial that was chosen, and the whole grid it was chosen from."""

    chosen: Trial
    trials: tuple[Trial, ...]


class DevSplit:
    """The dev split of one base, and what each mask makes of it."""

    def __init__(
        self,
        base: Base,
        attach: Attach,
        cases: Sequence[ConflictCase],
        battery: Battery,
        prefer: Source,
        masked: Callable[[tuple[Head, ...]], HeadMask],
    ) -> None:
        """``masked``: the mask that prunes some heads."""
        self._attach, self._battery = attach, battery
        conflicting = [case for case in cases if case.conflicting]
        if not conflicting:
            raise EditorError("no dev row shows a conflict, so no number of heads can be chosen")
        self._prompts = [case.row.prompt for case in conflicting]
        self._outcomes = candidate_tokens(base, conflicting)
        self._prefer, self._masked = prefer, masked
        self._tried: dict[frozenset[Head], tuple[list[bool], dict[str, float]]] = {}
        won, self._before = self._try(())
        self.start = sum(won) / len(won)

    def error(self, one: tuple[Head, ...], other: tuple[Head, ...]) -> float:
        """One standard error of the difference of two sets' rates: the rows are the same."""
        pairs = zip(self._try(one)[0], self._try(other)[0], strict=True)
        differences = [float(a) - float(b) for a, b in pairs]
        return statistics.pstdev(differences) / math.sqrt(len(differences))

    def trial(self, heads: tuple[Head, ...], rule: CandidateRule) -> Trial:
        won, after = self._try(heads)
        rate = sum(won) / len(won)
        return Trial(heads, rule, rate, rate - self.start, losses(self._before, after))

    def _try(self, heads: tuple[Head, ...]) -> tuple[list[bool], dict[str, float]]:
        """Which rows the preferred source wins, and every other score."""
        key = frozenset(heads)
        if key not in self._tried:
            with self._attach(self._masked(heads)) as model:
                scores = self._battery.scores(model, by_first_token)
                tokens = likeliest(model, self._prompts)
            named = zip(self._outcomes, tokens, strict=True)
            outcomes = [candidates.get(token, "other") for candidates, token in named]
            scores["other"] = outcomes.count("other") / len(outcomes)
            self._tried[key] = [outcome == self._prefer for outcome in outcomes], scores
        return self._tried[key]


def choose(dev: DevSplit, ranking: Ranking, prefer: Source, heads: int | None) -> Choice:
    """The set of heads with the best gain less penalty, of those that lose no more than the limits.

    Where none stays within them, the best of all. Of sets within one standard error of the best
    (of the paired difference) the smallest is taken. ``heads``: how many, None for the grid.

    Raises:
        EditorError: no head's score is above 0, or not so many.
    """
    trials: list[Trial] = []
    candidates = _candidates(dev, ranking, prefer)
    for count in (heads,) if heads is not None else GRID:
        for rule, ranked in candidates.items():
            taken = ranked(count)
            short = heads is not None and len(taken) < heads  # so many were asked for
            if taken and not short and not any(set(taken) == set(t.heads) for t in trials):
                trials.append(dev.trial(taken, rule))
    if not trials:
        raise EditorError(
            "there are not as many heads with a score above 0", "`--heads auto`, or fewer heads"
        )
    allowed = [trial for trial in trials if trial.fits] or trials
    best = max(allowed, key=lambda trial: trial.value)
    near = [
        trial for trial in allowed if trial.value >= best.value - dev.error(best.heads, trial.heads)
    ]
    return Choice(min(near, key=lambda trial: (len(trial.heads), -trial.value)), tuple(trials))


def _candidates(
    dev: DevSplit, ranking: Ranking, prefer: Source
) -> dict[CandidateRule, Callable[[int], tuple[Head, ...]]]:
    """By rule, the heads to prune for a given count."""
    pruned: Source = "context" if prefer == "memory" else "memory"
    ranked = ranking.top(pruned, SCREENED)
    alone = {head: dev.trial((head,), "screened") for head in ranked}
    cheap = [head for head in ranked if _cost(alone[head]) <= COSTLY]
    by_value = sorted(cheap, key=lambda head: -alone[head].value)
    return {
        "top_k": lambda k: tuple(ranking.top(pruned, k)),
        "exclusive": lambda k: tuple(
            h for h in ranking.top(pruned, k) if h not in ranking.top(prefer, k)
        ),
        "screened": lambda k: tuple(cheap[:k]),
        "by_value": lambda k: tuple(by_value[:k]),
    }


def _cost(trial: Trial) -> float:
    """The largest loss, in units of its limit; what answers become is no cost here."""
    return max((lost / LIMITS[n] for n, lost in trial.lost.items() if n != "other"), default=0.0)
