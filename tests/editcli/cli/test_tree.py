"""Lines from versions to their parents."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from editcli.cli.tree import drawn, placed


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Versions, newest first, each made from one that was there."""
    count = draw(st.integers(1, 15))
    parents = [draw(st.integers(0, number - 1)) for number in range(1, count)]
    records = [{"version": "0", "parent": ""}]
    records += [
        {"version": str(number), "parent": str(parent)} for number, parent in enumerate(parents, 1)
    ]
    return records[::-1]


@given(histories())
def test_following_a_line_down_leads_to_the_parent(records: list[dict[str, Any]]) -> None:
    places = placed(records)
    for start, record in enumerate(records):
        column = places[start].column if places[start].goes_on else None
        for below in range(start + 1, len(records)):
            assert column is not None
            if column in places[below].into:
                assert records[below]["version"] == record["parent"]
                break
            column = dict(places[below].passing)[column]
        else:
            assert record["parent"] == ""


@given(histories())
def test_columns_are_taken_without_gaps(records: list[dict[str, Any]]) -> None:
    places = placed(records)
    for above, place in pairwise(places):
        taken = sorted([*place.into, *(column for column, _ in place.passing)])
        assert taken == [*range(above.below)]
    assert places[-1].below == 0
    assert all(
        line.split()[place.column] == "*"
        for line, place in zip(drawn(records), places, strict=True)
    )


def test_a_branch_and_its_end() -> None:
    parents = {"4": "2", "3": "2", "2": "1", "1": ""}
    records = [{"version": version, "parent": parent} for version, parent in parents.items()]
    assert drawn(records) == ["*", "| *", "* /", "*"]


def test_a_version_whose_parent_is_not_shown_ends_its_line() -> None:
    assert drawn([{"version": "9", "parent": "5"}, {"version": "8", "parent": "7"}]) == ["*", "*"]
