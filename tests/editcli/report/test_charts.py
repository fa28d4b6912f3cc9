"""Where axes, lines and points of charts lie."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from editcli.report import charts
from editcli.report.charts import BOTTOM, LEFT, RIGHT, STEPS_DRAWN, TOP, Rate

SHARES = st.floats(0, 1)


def rate(place: int, value: float, *, series: int = 0, apart: bool = False) -> Rate:
    return Rate(place, series, apart, value, max(0.0, value - 0.2), min(1.0, value + 0.2), "")


def points(line: str) -> list[tuple[float, float]]:
    pairs = [point.split(",") for point in line.split()]
    return [(float(x), float(y)) for x, y in pairs]


def value_at(y: float, floor: float) -> float:
    """What a height means on a scale of rates."""
    return floor + (1 - floor) * (BOTTOM - y) / (BOTTOM - TOP)


@given(st.lists(SHARES, min_size=1, max_size=30))
def test_rates_lie_where_the_scale_says(values: list[float]) -> None:
    floor = charts.floor_of(values)
    assert floor <= min(values)
    names = [f"v{n:04d}" for n in range(len(values))]
    chart = charts.rates([rate(n, v) for n, v in enumerate(values)], names, floor)
    for dot, value in zip(chart.dots, values, strict=True):
        assert abs(value_at(dot.y, floor) - value) < 0.001
        assert LEFT < dot.x < RIGHT
        assert TOP <= dot.high <= dot.y <= dot.low <= BOTTOM
    for tick in chart.y_ticks:
        assert abs(value_at(tick.at, floor) - float(tick.text)) < 0.001
    assert [tick.text for tick in (chart.y_ticks[0], chart.y_ticks[-1])] == [f"{floor:.2f}", "1.00"]
    assert [dot.x for dot in chart.dots] == sorted(dot.x for dot in chart.dots)
    assert len(points(chart.lines[0][1])) == len({(dot.x, dot.y) for dot in chart.dots})
    assert chart.ends[0].text == f"{values[-1]:.3f}"


def test_a_scale_begins_as_high_as_it_can() -> None:
    for value, floor in ((1.0, 0.9), (0.9, 0.9), (0.89, 0.8), (0.7, 0.5), (0.2, 0.0)):
        assert charts.floor_of([1.0, value]) == floor


def test_an_interval_below_the_scale_is_cut_off() -> None:
    [dot] = charts.rates([rate(0, 0.95)], ["v0001"], 0.9).dots
    assert dot.low == BOTTOM
    assert dot.high == TOP


def test_what_is_apart_is_a_point_and_no_part_of_a_line() -> None:
    shown = [rate(0, 0.5), rate(1, 0.1, apart=True), rate(2, 0.7)]
    chart = charts.rates(shown, ["v0001", "v0002", "v0003"], 0.0)
    [(_, line)] = chart.lines
    assert [x for x, _ in points(line)] == [chart.dots[0].x, chart.dots[2].x]
    assert [dot.apart for dot in chart.dots] == [False, True, False]
    alone = charts.rates([rate(0, 0.5, apart=True)], ["v0001"], 0.0)
    assert (alone.lines, alone.ends) == ([], [])


def test_the_ends_of_two_lines_do_not_cover_each_other() -> None:
    shown = [rate(0, 0.95), rate(0, 0.951, series=1)]
    one, other = charts.rates(shown, ["v0001"], 0.9).ends
    assert other.at - one.at >= 11


def test_few_of_many_names_stand_below_the_axis() -> None:
    names = [f"v{n:04d}" for n in range(1, 101)]
    chart = charts.rates([rate(n, 1.0) for n in range(100)], names, 0.9)
    assert [tick.text for tick in chart.x_ticks] == ["v0001", "v0034", "v0067", "v0100"]


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=60))
def test_steps_go_up_to_a_round_number(counts: list[int]) -> None:
    names = [f"v{n:04d}" for n in range(len(counts))]
    chart = charts.steps(counts, names)
    numbers = [int(tick.text) for tick in chart.y_ticks]
    assert numbers[0] == 0
    assert numbers[-1] >= max(counts)
    assert len({b - a for a, b in pairwise(numbers)}) == 1
    assert len(numbers) <= 6
    [(_, line)] = chart.lines
    assert points(line)[0][0] == LEFT
    assert points(line)[-1][0] == RIGHT
    last = points(line)[-1][1]
    assert abs((BOTTOM - last) / (BOTTOM - TOP) * numbers[-1] - counts[-1]) <= numbers[-1] * 0.001
    assert chart.ends[0].text == str(counts[-1])


def test_of_very_many_steps_as_many_are_drawn_as_can_be_seen() -> None:
    counts = [*range(10_000)]
    chart = charts.steps(counts, [str(n) for n in counts])
    drawn = points(chart.lines[0][1])
    assert len(drawn) <= 2 * (STEPS_DRAWN + 1)
    assert drawn[-1] == (RIGHT, drawn[-1][1])
    assert chart.told == "from 0: 0 to 9999: 9999, at most 9999"
