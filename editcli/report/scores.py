"""The part of a report about scores: what checks measured last, and how it changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from editcli.operations.scores.records import IN_FORCE, KEPT, RATES
from editcli.report import charts
from editcli.report.charts import Chart
from editcli.store.tables.database import DAMAGED
from editcli.store.tables.history import Event
from editors import EditorError

LISTED = 200  # checks in the table, and in each chart
SETS_DRAWN = 6  # what facts were checked: a file each, or the facts in force

NAMES = {key: RATES[key] for key in KEPT}


@dataclass(frozen=True, slots=True)
class Measured:
    """A score with its 95 % interval, over ``n`` prompts."""

    value: float
    low: float
    high: float
    n: int

    @property
    def told(self) -> str:
        """Its numbers in words."""
        return f"{self.value:.3f}, 95 % interval {self.low:.3f} to {self.high:.3f}, n {self.n}"


@dataclass(frozen=True, slots=True)
class Check:
    """What one check measured in one form of asking; ``of``: on which facts. ``on_line``: it is of
    the shown version, or of one that led to it."""

    event: Event
    of: str
    form: str
    facts: int
    scores: Mapping[str, Measured]
    on_line: bool

    @property
    def in_words(self) -> str:
        """Its scores in a line: "reliability 1.000 · generalization 0.950"."""
        chats = "in chats: " if self.form == "chat" else ""
        rates = (f"{NAMES[key]} {score.value:.3f}" for key, score in self.scores.items())
        return chats + " · ".join(rates)


@dataclass(frozen=True, slots=True)
class Curves:
    """The charts of all checks on the same facts; ``of``: on which. ``floor``: where the scale of
    all of them begins. ``left_out``: older checks."""

    of: str
    floor: float
    charts: Mapping[str, Chart]
    forms: Sequence[str]
    left_out: int


def checks_of(
    events: Sequence[Event], kept: Mapping[int, Mapping[str, Any]], line: Collection[str]
) -> list[Check]:
    """The checks, oldest first. ``kept``: the scores by the numbers of their events; ``line``: the
    ids of the shown version and of those that led to it.

    Raises:
        EditorError: the record of a check is damaged.
    """
    checks = []
    for event in events:
        if event.seq not in kept:
            continue
        try:
            record = kept[event.seq]
            of, facts = str(record["of"]), int(record["facts"])
            for form, told in record["forms"].items():
                scores = {key: _measured(told, key) for key in KEPT if key in told}
                checks.append(Check(event, of, form, facts, scores, event.version in line))
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            what = f"the scores of line {event.seq} of the history"
            raise EditorError(f"{what} cannot be read: {error!r}", DAMAGED) from error
    return checks


def _measured(told: Mapping[str, Any], key: str) -> Measured:
    low, high = told["ci95"][key]
    scores = Measured(float(told[key]), float(low), float(high), int(told["n"][key]))
    if not 0 <= scores.value <= 1:
        raise ValueError(f"{key} is {scores.value}")
    return scores


def newest(checks: Sequence[Check]) -> list[Check]:
    """Of the checks of the shown version, or else of those that led to it, the newest of each form
    on each set of facts: first on those in force, then the newest first."""
    found = {(check.of, check.form): check for check in checks if check.on_line}
    return sorted(found.values(), key=lambda check: (check.of != IN_FORCE, -check.event.seq))


def curves_of(checks: Sequence[Check]) -> list[Curves]:
    """The charts of what was checked more than once: first of the facts in force, then of the sets
    that were checked last."""
    sets: dict[str, list[Check]] = {}
    for check in reversed(checks):
        sets.setdefault(check.of, []).insert(0, check)
    ordered = sorted(sets, key=lambda of: of != IN_FORCE)
    return [_curves(of, sets[of]) for of in ordered if len({c.event.seq for c in sets[of]}) > 1]


def _curves(of: str, checks: Sequence[Check]) -> Curves:
    events = list(dict.fromkeys(check.event.seq for check in checks))
    drawn = events[-LISTED:]
    places = {seq: place for place, seq in enumerate(drawn)}
    shown = [check for check in checks if check.event.seq in places]
    names = [next(c.event.version for c in shown if c.event.seq == seq) for seq in drawn]
    forms = list(dict.fromkeys(check.form for check in shown))
    floor = charts.floor_of([m.value for check in shown for m in check.scores.values()] or [0.0])
    drawings = {}
    for key, name in NAMES.items():
        rates = [
            charts.Rate(
                places[check.event.seq],
                min(forms.index(check.form), 1),
                not check.on_line,
                score.value,
                score.low,
                score.high,
                f"{check.event.version}: {score.told}",
            )
            for check in shown
            if (score := check.scores.get(key))
        ]
        if rates:
            drawings[name] = charts.rates(rates, names, floor)
    return Curves(of, floor, drawings, forms, len(events) - len(drawn))
