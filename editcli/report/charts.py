"""Charts as numbers: where axes, ticks, lines and points lie. `drawings.html` draws them.

Lengths are in the units of a drawing that is `WIDTH` by `HEIGHT`; y grows downwards, as in SVG.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from editcli.wording import counted

WIDTH, HEIGHT = 300, 150
LEFT, RIGHT, TOP, BOTTOM = 40, 264, 12, 122  # of the plot, within the drawing
X_LABELS = 4
STEPS_DRAWN = 500  # more could not be told apart

_FLOORS = {0.9: 0.02, 0.8: 0.05, 0.5: 0.1, 0.0: 0.25}  # of a scale of rates, with its steps
_ROUND = (1, 2, 5, 10)


@dataclass(frozen=True, slots=True)
class Tick:
    """A number, or a name, at a place of an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Rate:
    """What a chart shows of a score: ``value`` between ``low`` and ``high``, and what is told of
    it in words. ``place``: its number in the row of all checks; ``series``: 0 or 1; ``apart``: it
    is no part of the line."""

    place: int
    series: int
    apart: bool
    value: float
    low: float
    high: float
    told: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a chart, with the ends of its interval."""

    x: float
    y: float
    low: float
    high: float
    series: int
    apart: bool
    told: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing: the ticks of both axes, lines as the points of an SVG polyline by their series,
    the points, and what stands beside the ends of lines. ``told``: what it shows, in words."""

    told: str
    y_ticks: Sequence[Tick]
    x_ticks: Sequence[Tick]
    lines: Sequence[tuple[int, str]]
    dots: Sequence[Dot] = ()
    ends: Sequence[Tick] = ()


def floor_of(values: Sequence[float]) -> float:
    """Where a scale of rates begins that shows all ``values``: as high as one that is common."""
    return next(floor for floor in _FLOORS if min(values) >= floor)


def rates(shown: Sequence[Rate], names: Sequence[str], floor: float) -> Chart:
    """Rates over checks, whose ``names`` stand below the axis. The scale ends at 1. What lies below
    ``floor`` is drawn at it."""

    def x(place: int) -> float:
        return _scaled(place + 0.5, len(names), LEFT, RIGHT)

    def y(value: float) -> float:
        return _scaled(max(value, floor) - floor, 1 - floor, BOTTOM, TOP)

    dots = [
        Dot(x(r.place), y(r.value), y(r.low), y(r.high), r.series, r.apart, r.told) for r in shown
    ]
    parts = {
        series: [dot for dot in dots if dot.series == series and not dot.apart]
        for series in sorted({dot.series for dot in dots})
    }
    lines = [(series, _points((d.x, d.y) for d in part)) for series, part in parts.items()]
    newest = {rate.series: rate.value for rate in shown if not rate.apart}
    ends = [Tick(y(value), f"{value:.3f}") for _, value in sorted(newest.items())]
    step = _FLOORS[floor]
    marks = [floor + n * step for n in range(round((1 - floor) / step) + 1)]
    places = {place: x(place) for place in range(len(names))}
    told = ", ".join(tick.text for tick in ends) or "none of it on the line of this version"
    return Chart(
        told=f"{counted(len(names), 'check')}, newest: {told}",
        y_ticks=[Tick(y(mark), f"{mark:.2f}") for mark in marks],
        x_ticks=[Tick(places[n], names[n]) for n in _thinned(len(names))],
        lines=[(series, points) for series, points in lines if points],
        dots=dots,
        ends=_apart(ends),
    )


def steps(counts: Sequence[int], names: Sequence[str]) -> Chart:
    """Numbers of facts, one step for each of ``names``; of very many, as many as can be seen."""
    step = _round_step(max(counts))
    top = max(step * -(-max(counts) // step), step)
    every = -(-len(counts) // STEPS_DRAWN)
    places = sorted({*range(0, len(counts), every), len(counts) - 1})
    y = {n: _scaled(counts[n], top, BOTTOM, TOP) for n in places}
    ends = [*places[1:], len(counts)]
    points = [
        (_scaled(at, len(counts), LEFT, RIGHT), y[n])
        for n, end in zip(places, ends, strict=True)
        for at in (n, end)
    ]
    middles = {n: _scaled(n + 0.5, len(counts), LEFT, RIGHT) for n in _thinned(len(counts))}
    return Chart(
        told=f"from {names[0]}: {counts[0]} to {names[-1]}: {counts[-1]}, at most {max(counts)}",
        y_ticks=[
            Tick(_scaled(mark, top, BOTTOM, TOP), str(mark)) for mark in range(0, top + 1, step)
        ],
        x_ticks=[Tick(at, names[n]) for n, at in middles.items()],
        lines=[(0, _points(points))],
        ends=[Tick(y[places[-1]], str(counts[-1]))],
    )


def _scaled(value: float, most: float, start: float, end: float) -> float:
    return round(start + (end - start) * value / most, 1)


def _points(points: Iterator[tuple[float, float]] | Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in (point for point, _ in groupby(points)))


def _thinned(count: int) -> list[int]:
    """The places that have a label: the first, the last, and some between."""
    if count <= X_LABELS:
        return [*range(count)]
    return sorted({round(n * (count - 1) / (X_LABELS - 1)) for n in range(X_LABELS)})


def _round_step(most: int) -> int:
    """A round step that takes at most five to ``most``."""
    step = 1
    while True:
        for factor in _ROUND:
            if most <= 5 * factor * step:
                return factor * step
        step *= 10


def _apart(labels: Sequence[Tick], gap: float = 11) -> list[Tick]:
    """The labels, moved so that none covers another."""
    moved: list[Tick] = []
    for label in sorted(labels, key=lambda tick: tick.at):
        at = max(label.at, moved[-1].at + gap) if moved else label.at
        moved.append(Tick(at, label.text))
    return moved
