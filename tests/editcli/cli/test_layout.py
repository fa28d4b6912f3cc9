"""Tables and records on terminals of any width: nothing is lost, and what is short stays whole."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from editcli.cli.layout import GAP, WHOLE, fitted, print_record, print_table

COLUMNS = ("fact", "prompt", "old", "new", "state", "version", "at", "who")
ROWS = [
    *(
        ["c3635fe722db", "North Korea is a country on the continent of", "Asia", "North America"],
        ["d60a200bb419", "Who is the author of The Merchant of Venice?", "William", "Luis de C."],
    )
]
TABLE = [[*row, "in force", "v0002", "2026-11-29 00:30", "ann"] for row in ROWS]
WIDTHS = (40, 80, 120, 200)
each_width = pytest.mark.parametrize("width", WIDTHS)


def printed(width: int, monkeypatch: pytest.MonkeyPatch, spare: tuple[str, ...] = ()) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    stream = io.StringIO()
    print_table(stream, COLUMNS, TABLE, spare)
    return stream.getvalue()


@each_width
def test_a_table_fits_and_loses_nothing(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(width, monkeypatch)
    lines = text.splitlines()
    assert max(map(cell_len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)
    for cell in ("c3635fe722db", "d60a200bb419", "v0002", "2026-11-29 00:30", "in force"):
        assert cell in text
    for word in ("North", "Korea", "country", "continent", "Venice?", "America"):
        assert word in text


def test_a_narrow_table_is_printed_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, end = printed(40, monkeypatch).split("\n\n")
    assert end == ""
    assert first.splitlines()[:3] == [
        "fact     c3635fe722db",
        "prompt   North Korea is a country on the",
        "         continent of",
    ]
    assert second.endswith("who      ann")


def test_spare_columns_are_left_out_before_that(monkeypatch: pytest.MonkeyPatch) -> None:
    header = printed(80, monkeypatch, ("who", "at")).splitlines()[0].split()
    assert header == [*COLUMNS[:6], "who"], "the last one is wide"
    assert printed(200, monkeypatch, ("who", "at")).splitlines()[0].split() == [*COLUMNS]
    assert "2026-11-29 00:30" in printed(40, monkeypatch, ("who", "at")), "row by row, all is told"


@each_width
def test_a_record_keeps_line_breaks_and_indents_values(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    stream = io.StringIO()
    print_record(stream, [("prompt", "one\ntwo"), ("a rather long key", "word " * 30)])
    lines = stream.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= width
    assert re.fullmatch(r"prompt +one", lines[0])
    assert lines[1].strip() == "two"
    assert lines[0].index("one") == lines[1].index("two")


cells = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")) | st.just(" "))


@given(st.lists(st.lists(cells, min_size=3, max_size=3), min_size=1), st.integers(20, 200))
def test_columns_fit_and_short_ones_are_never_broken(rows: list[list[str]], width: int) -> None:
    columns = ("one", "two", "three")
    widths = fitted(columns, rows, width)
    if widths is None:
        return
    assert sum(widths) + GAP * 2 <= width
    for number, name in enumerate(columns):
        widest = max(cell_len(text) for text in (name, *(row[number] for row in rows)))
        assert widths[number] >= min(widest, 12)
        if widest <= WHOLE:
            assert widths[number] == widest
