"""The facts of a file judged against each other, with what that takes in a table on disk.

An id names one fact; one prompt has one target, unless the newest (the later line) is asked to win;
the same fact twice is one fact.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal, NamedTuple

OnConflict = Literal["refuse", "newest"]
CONTRADICTS = "contradicts "  # how the reason of a contradiction begins


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that gives no fact, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Replaced:
    """A fact (its `id`) left out because of another line: `by` repeats it or is newer."""

    line: int
    by: int
    id: str


class Said(NamedTuple):
    """What a line says, and at which byte of the file it begins."""

    line: int
    place: int
    prompt: str
    target: str
    id: str


@dataclass(slots=True)
class Judgement:
    """The lines that stand and the bytes where they begin, in order; and those that do not."""

    lines: array[int] = field(default_factory=lambda: array("Q"))
    places: array[int] = field(default_factory=lambda: array("Q"))
    refused: list[Refused] = field(default_factory=list)
    duplicates: list[Replaced] = field(default_factory=list)
    superseded: list[Replaced] = field(default_factory=list)


def judge(said: Iterable[Said], on_conflict: OnConflict) -> Judgement:
    """Judge all lines; `said` is gone through once and never held as a whole.

    Raises sqlite3.Error where there is no room for the table on disk.
    """
    found = Judgement()
    with closing(sqlite3.connect("")) as table:  # a temporary file that goes with the connection
        table.execute("CREATE TABLE said (line INTEGER PRIMARY KEY, place, prompt, target, id)")
        table.executemany("INSERT INTO said VALUES (?, ?, ?, ?, ?)", said)
        found.refused += _id_clashes(table)
        _drop(table, found.refused)
        rows = map(Said._make, table.execute("SELECT * FROM said ORDER BY prompt, line"))
        for _, same_prompt in groupby(rows, key=lambda row: row.prompt):
            _judge_prompt(list(same_prompt), on_conflict, found)
        for left_out in (found.refused, found.duplicates, found.superseded):
            left_out.sort(key=lambda item: item.line)
            _drop(table, left_out)
        for line, place in table.execute("SELECT line, place FROM said ORDER BY line"):
            found.lines.append(line)
            found.places.append(place)
    return found


def _id_clashes(table: sqlite3.Connection) -> Iterator[Refused]:
    """Lines whose id an earlier line gave to another prompt."""
    query = """
        SELECT line, id, owner FROM (
            SELECT line, id, prompt, first_value(line) OVER same AS owner,
                first_value(prompt) OVER same AS owned
            FROM said WINDOW same AS (PARTITION BY id ORDER BY line)
        ) WHERE prompt != owned
    """
    for line, name, owner in table.execute(query):
        yield Refused(line, f"id: {name!r} names another fact on line {owner}")


def _judge_prompt(rows: Sequence[Said], on_conflict: OnConflict, found: Judgement) -> None:
    """Judge the lines of one prompt, in order."""
    first = rows[0]
    rival = next((row for row in rows if row.target != first.target), None)
    if rival is not None and on_conflict == "refuse":
        for row in rows:
            other = rival if row.target == first.target else first
            found.refused.append(
                Refused(
                    row.line,
                    f"{CONTRADICTS}line {other.line}: the same prompt with the target "
                    f"{row.target!r} here and {other.target!r} there",
                )
            )
        return
    current = first
    for row in rows[1:]:
        if row.target == current.target:
            found.duplicates.append(Replaced(row.line, current.line, row.id))
        else:
            found.superseded.append(Replaced(current.line, row.line, current.id))
            current = row


def _drop(table: sqlite3.Connection, items: Iterable[Refused | Replaced]) -> None:
    table.executemany("DELETE FROM said WHERE line = ?", ((item.line,) for item in items))
