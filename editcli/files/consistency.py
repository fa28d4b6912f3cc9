"""Finds contradictions and duplicates between the facts of a file, in a temporary SQLite table.

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
    """A fact, the line that it is from, and the byte at which it can be read again. The row of a
    public set may hold several facts, so only ``offset`` tells them apart; it grows with them."""

    line: int
    offset: int
    prompt: str
    target: str
    id: str
    subject: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass(slots=True)
class ConsistentLines:
    """The facts to use, by line and offset, in order; and the lines left out. ``unit``: what a line
    is called in messages."""

    refused: list[Refused]
    unit: str = "line"
    lines: array[int] = field(default_factory=lambda: array("Q"))
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    duplicates: list[Replaced] = field(default_factory=list)
    superseded: list[Replaced] = field(default_factory=list)


def resolve_contradictions(
    facts: Iterable[FactLine],
    refused: list[Refused],
    on_conflict: OnConflict,
    unit: str = "line",
) -> ConsistentLines:
    """Compare all facts; ``facts`` is read once and never held as a whole. Lines that were
    ``refused`` while it was read are among those of the result.

    Raises sqlite3.Error where there is no room for the table on disk.
    """
    consistent = ConsistentLines(refused, unit)
    with closing(sqlite3.connect("")) as table:  # a temporary file that goes with the connection
        table.execute(
            "CREATE TABLE facts (offset INTEGER PRIMARY KEY, line, prompt, target, id, subject)"
        )
        table.execute("CREATE TABLE aliases (offset, alias, folded)")
        table.executemany("INSERT INTO facts VALUES (?, ?, ?, ?, ?, ?)", _rows(table, facts))
        clashes = [*_id_clashes(table, unit), *_alias_clashes(table, unit)]
        consistent.refused += [refusal for _, refusal in clashes]
        _drop(table, (offset for offset, _ in clashes))
        columns = "line, offset, prompt, target, id"
        ordered = table.execute(f"SELECT {columns} FROM facts ORDER BY prompt, offset")
        rows = starmap(FactLine, ordered)
        dropped = array("Q")
        for _, same_prompt in groupby(rows, key=lambda row: row.prompt):
            dropped.extend(_resolve_prompt(list(same_prompt), on_conflict, consistent))
        _drop(table, dropped)
        for left_out in (consistent.refused, consistent.duplicates, consistent.superseded):
            left_out.sort(key=lambda item: item.line)
        for line, offset in table.execute("SELECT line, offset FROM facts ORDER BY offset"):
            consistent.lines.append(line)
            consistent.offsets.append(offset)
    return consistent


def _rows(table: sqlite3.Connection, facts: Iterable[FactLine]) -> Iterator[tuple[object, ...]]:
    """Rows for the table of facts; fills the table of aliases on the way."""
    for fact in facts:
        aliases = [(fact.offset, alias, folded_name(alias)) for alias in fact.aliases]
        if aliases:
            table.executemany("INSERT INTO aliases VALUES (?, ?, ?)", aliases)
        subject = None if fact.subject is None else folded_name(fact.subject)
        yield (fact.offset, fact.line, fact.prompt, fact.target, fact.id, subject)


def _alias_clashes(table: sqlite3.Connection, unit: str) -> Iterator[tuple[int, Refused]]:
    """Facts, by offset, with an alias that is the subject of another fact, or an alias of another
    subject before it."""
    # Columns beside min() are those of the row that has the least value.
    query = """
        SELECT own.offset, own.line, aliases.alias, min(other.offset), other.line,
            other.subject = aliases.folded
        FROM aliases JOIN facts own USING (offset)
        JOIN (
            SELECT offset, subject AS name FROM facts
            UNION ALL SELECT offset, folded FROM aliases
        ) known ON known.name = aliases.folded
        JOIN facts other ON other.offset = known.offset
        WHERE other.subject != own.subject AND other.prompt != own.prompt
            AND (other.subject = aliases.folded OR other.offset < own.offset)
        GROUP BY own.offset ORDER BY own.offset
    """
    for offset, line, alias, _, other, is_subject in table.execute(query):
        what = (
            f"the subject of {unit} {other}" if is_subject else f"an alias on {unit} {other}, too"
        )
        yield offset, Refused(line, f"aliases: {alias!r} is {what}; {ONE_SUBJECT}")


def _id_clashes(table: sqlite3.Connection, unit: str) -> Iterator[tuple[int, Refused]]:
    """Facts, by offset, whose id an earlier one gave to another prompt."""
    query = """
        SELECT offset, line, id, first_line FROM (
            SELECT offset, line, id, prompt, first_value(line) OVER same_id AS first_line,
                first_value(prompt) OVER same_id AS first_prompt
            FROM facts WINDOW same_id AS (PARTITION BY id ORDER BY offset)
        ) WHERE prompt != first_prompt
    """
    for offset, line, fact_id, first_line in table.execute(query):
        yield offset, Refused(line, f"id: {fact_id!r} names another fact on {unit} {first_line}")


def _resolve_prompt(
    rows: Sequence[FactLine], on_conflict: OnConflict, consistent: ConsistentLines
) -> Iterator[int]:
    """Compare the facts of one prompt, in order; gives the offsets of those left out."""
    current = first = rows[0]
    other = next((row for row in rows if row.target != first.target), None)
    if other and on_conflict == "refuse":
        for row in rows:
            opposed = other if row.target == first.target else first
            reason = (
                f"{CONTRADICTS}{consistent.unit} {opposed.line}: the same prompt with the target "
                f"{row.target!r} here and {opposed.target!r} there"
            )
            consistent.refused.append(Refused(row.line, reason))
            yield row.offset
        return
    for row in rows[1:]:
        if row.target == current.target:
            consistent.duplicates.append(Replaced(row.line, current.line, row.id))
            yield row.offset
        else:
            consistent.superseded.append(Replaced(current.line, row.line, current.id))
            yield current.offset
            current = row


def _drop(table: sqlite3.Connection, offsets: Iterable[int]) -> None:
    table.executemany("DELETE FROM facts WHERE offset = ?", ((offset,) for offset in offsets))
