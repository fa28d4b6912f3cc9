"""Finds contradictions and duplicates between the lines of a fact file, in a temporary SQLite
table.

An id names one fact. A prompt has one target, unless the newest (the later line) is to win. The
same fact twice is one fact. An alias of one subject is no other subject, and no alias of another.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby, starmap
from typing import Literal, NamedTuple

from editcli.files.jsonl import Refused
from editors.methods.aliases import ONE_SUBJECT
from editors.text_matching.names import folded_name

OnConflict = Literal["refuse", "newest"]
CONTRADICTS = "contradicts "  # how the reason of a contradiction begins


@dataclass(frozen=True, slots=True)
class Replaced:
    """A fact (its `id`) whose `line` is left out because of the line `by`, which says the same or
    is newer."""

    line: int
    by: int
    id: str


class FactLine(NamedTuple):
    """The fact of a line, and at which byte of the file the line begins."""

    line: int
    offset: int
    prompt: str
    target: str
    id: str
    subject: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass(slots=True)
class ConsistentLines:
    """The lines to use, with the bytes where they begin, in order; and the lines left out."""

    refused: list[Refused]
    lines: array[int] = field(default_factory=lambda: array("Q"))
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    duplicates: list[Replaced] = field(default_factory=list)
    superseded: list[Replaced] = field(default_factory=list)


def resolve_contradictions(
    facts: Iterable[FactLine], refused: list[Refused], on_conflict: OnConflict
) -> ConsistentLines:
    """Compare all lines; ``facts`` is read once and never held as a whole. Lines that were
    ``refused`` while it was read are among those of the result.

    Raises sqlite3.Error where there is no room for the table on disk.
    """
    consistent = ConsistentLines(refused)
    with closing(sqlite3.connect("")) as table:  # a temporary file that goes with the connection
        table.execute(
            "CREATE TABLE facts (line INTEGER PRIMARY KEY, offset, prompt, target, id, subject)"
        )
        table.execute("CREATE TABLE aliases (line, alias, folded)")
        table.executemany("INSERT INTO facts VALUES (?, ?, ?, ?, ?, ?)", _rows(table, facts))
        consistent.refused += _id_clashes(table)
        consistent.refused += _alias_clashes(table)
        _drop(table, consistent.refused)
        columns = "line, offset, prompt, target, id"
        ordered = table.execute(f"SELECT {columns} FROM facts ORDER BY prompt, line")
        rows = starmap(FactLine, ordered)
        for _, same_prompt in groupby(rows, key=lambda row: row.prompt):
            _resolve_prompt(list(same_prompt), on_conflict, consistent)
        for left_out in (consistent.refused, consistent.duplicates, consistent.superseded):
            left_out.sort(key=lambda item: item.line)
            _drop(table, left_out)
        for line, offset in table.execute("SELECT line, offset FROM facts ORDER BY line"):
            consistent.lines.append(line)
            consistent.offsets.append(offset)
    return consistent


def _rows(table: sqlite3.Connection, facts: Iterable[FactLine]) -> Iterator[tuple[object, ...]]:
    """Rows for the table of facts; fills the table of aliases on the way."""
    for fact in facts:
        aliases = [(fact.line, alias, folded_name(alias)) for alias in fact.aliases]
        if aliases:
            table.executemany("INSERT INTO aliases VALUES (?, ?, ?)", aliases)
        subject = None if fact.subject is None else folded_name(fact.subject)
        yield (*fact[:5], subject)


def _alias_clashes(table: sqlite3.Connection) -> Iterator[Refused]:
    """Lines with an alias that is the subject of another line, or an alias of another subject in an
    earlier line."""
    query = """
        SELECT own.line, aliases.alias, min(other.line), other.subject = aliases.folded
        FROM aliases JOIN facts own USING (line)
        JOIN (
            SELECT line, subject AS name FROM facts
            UNION ALL SELECT line, folded FROM aliases
        ) known ON known.name = aliases.folded
        JOIN facts other ON other.line = known.line
        WHERE other.subject != own.subject AND other.prompt != own.prompt
            AND (other.subject = aliases.folded OR other.line < own.line)
        GROUP BY own.line ORDER BY own.line
    """
    for line, alias, other, is_subject in table.execute(query):
        what = f"the subject of line {other}" if is_subject else f"an alias on line {other}, too"
        yield Refused(line, f"aliases: {alias!r} is {what}; {ONE_SUBJECT}")


def _id_clashes(table: sqlite3.Connection) -> Iterator[Refused]:
    """Lines whose id an earlier line gave to another prompt."""
    query = """
        SELECT line, id, first_line FROM (
            SELECT line, id, prompt, first_value(line) OVER same_id AS first_line,
                first_value(prompt) OVER same_id AS first_prompt
            FROM facts WINDOW same_id AS (PARTITION BY id ORDER BY line)
        ) WHERE prompt != first_prompt
    """
    for line, fact_id, first_line in table.execute(query):
        yield Refused(line, f"id: {fact_id!r} names another fact on line {first_line}")


def _resolve_prompt(
    rows: Sequence[FactLine], on_conflict: OnConflict, consistent: ConsistentLines
) -> None:
    """Compare the lines of one prompt, in order."""
    current = first = rows[0]
    other = next((row for row in rows if row.target != first.target), None)
    if other and on_conflict == "refuse":
        for row in rows:
            opposed = other if row.target == first.target else first
            reason = (
                f"{CONTRADICTS}line {opposed.line}: the same prompt with the target "
                f"{row.target!r} here and {opposed.target!r} there"
            )
            consistent.refused.append(Refused(row.line, reason))
        return
    for row in rows[1:]:
        if row.target == current.target:
            consistent.duplicates.append(Replaced(row.line, current.line, row.id))
        else:
            consistent.superseded.append(Replaced(current.line, row.line, current.id))
            current = row


def _drop(table: sqlite3.Connection, items: Iterable[Refused | Replaced]) -> None:
    table.executemany("DELETE FROM facts WHERE line = ?", ((item.line,) for item in items))
