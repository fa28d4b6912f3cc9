"""Fact files of every format, with every bad line reported at once.

A file is read as a whole, since facts can contradict each other
(:mod:`editcli.files.consistency`). The file may be larger than memory, so each fact is read from it
only when it is used. Facts of other formats than ours are converted first, into a temporary file.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, overload

from editcli.errors import UsageError
from editcli.files.consistency import (
    CONTRADICTS,
    FactLine,
    OnConflict,
    Replaced,
    resolve_contradictions,
)
from editcli.files.containers.json_files import JsonLines
from editcli.files.containers.opening import open_container
from editcli.files.conversion import FactRows
from editcli.files.formats.base import Format
from editcli.files.formats.sets.own import KEYS, OWN
from editcli.files.jsonl import Refused, findings, place, records, refusal
from editcli.wording import counted_are
from editors import EditorError, Fact
from editors.schema import unknown_key

DOCUMENT_BYTES = 2**24  # of a file, to see whether it is one JSON document


class Facts(Sequence[Fact]):
    """Facts of a file in order, each read from the file when it is used.

    `lines`: the line of each, counted from 1, or its record or row in a file without lines. Raises
    UsageError where the file has changed since it was read as a whole.
    """

    def __init__(self, source: _Lines, lines: array[int], offsets: array[int]) -> None:
        self._source, self.lines, self._offsets = source, lines, offsets

    @overload
    def __getitem__(self, index: int) -> Fact: ...

    @overload
    def __getitem__(self, index: slice) -> Facts: ...

    def __getitem__(self, index: int | slice) -> Fact | Facts:
        if isinstance(index, slice):
            return Facts(self._source, self.lines[index], self._offsets[index])
        return self._source.fact(self._offsets[index])

    def __len__(self) -> int:
        return len(self.lines)

    def at(self, numbers: Sequence[int]) -> Facts:
        """The facts with these numbers in this sequence."""
        lines = array("Q", (self.lines[number] for number in numbers))
        offsets = array("Q", (self._offsets[number] for number in numbers))
        return Facts(self._source, lines, offsets)


@dataclass(frozen=True, slots=True)
class FactFile:
    """What a fact file holds; everything in the order of lines.

    `facts` are the facts to use, `duplicates` repeat one of them, `superseded` lost to a newer line
    in the same file. `unit`: what a line is called; `format`: what its rows are.
    """

    name: str
    facts: Facts
    refused: tuple[Refused, ...]
    duplicates: tuple[Replaced, ...]
    superseded: tuple[Replaced, ...]
    unit: str
    format: Format

    def findings(self) -> list[str]:
        """The refused lines as `name:line: reason`."""
        return findings(self.name, self.refused, self.unit)

    def remarks(self, limit: int | None = None) -> list[str]:
        """The format if it is not ours, and the repeated and superseded lines as `name:line: why`;
        past `limit`, only their count."""
        unit = self.unit
        same = [(item.line, f"same fact as {unit} {item.by}, left out") for item in self.duplicates]
        older = [(item.line, f"superseded by {unit} {item.by}") for item in self.superseded]
        left_out = sorted([*same, *older])
        lines = [f"{place(self.name, line, unit)}: {why}" for line, why in left_out[:limit]]
        if more := len(left_out) - len(lines):
            lines.append(f"{self.name}: {counted_are(more, f'more {unit}')} left out or superseded")
        read_as = f"{self.name} is read as {self.format.name}: {self.format.title}"
        return lines if self.format is OWN else [read_as, *lines]

    def refusing(
        self, objection: Callable[[Fact], str | None], limit: int | None = None
    ) -> FactFile:
        """The same file without the facts that `objection` gives a reason against.

        At most `limit` facts are kept; the facts after those are not looked at.
        """
        numbers, refused = array("Q"), list(self.refused)
        for number, fact in enumerate(self.facts):
            if len(numbers) == limit:
                break
            reason = objection(fact)
            if reason is None:
                numbers.append(number)
            else:
                refused.append(Refused(self.facts.lines[number], reason))
        refused.sort(key=lambda bad: bad.line)
        return replace(self, facts=self.facts.at(numbers), refused=tuple(refused))

    def require(self, *, skip_bad: bool = False) -> Facts:
        """The facts; raises FactsRefused naming every refused line, unless `skip_bad`."""
        if self.refused and not skip_bad:
            raise refusal(self.name, self.refused, self.hint(), self.unit)
        return self.facts

    def hint(self) -> str:
        """What helps against the refused lines."""
        correct = f"correct the {self.unit}s"
        if any(bad.reason.startswith(CONTRADICTS) for bad in self.refused):
            return (
                f"{correct}; with `--on-conflict newest`, `apply` and `facts dedupe` let the later "
                f"{self.unit} win"
            )
        if self.format is not OWN:
            correct = "`editcli facts convert` writes the others to a file of facts"
        return f"{correct}; `apply` and `facts dedupe` leave them out with `--skip-bad`"


def read_facts(source: str, *, on_conflict: OnConflict = "refuse") -> FactFile:
    """Read the fact file at path `source`, or standard input if it is "-".

    Raises UsageError when there is nothing to read: no such file, no facts, rows of no known
    format, or columns that belong to no fact.
    """
    rows = FactRows(open_container(source))
    name, unit = rows.container.name, rows.container.unit
    _refuse_columns(name, rows.unknown_columns)
    refused: list[Refused] = []
    if rows.format is OWN and isinstance(rows.container, JsonLines):
        file = _Lines(name, rows.container.file)
        fact_lines = file.fact_lines(refused)
    else:
        converted = tempfile.TemporaryFile(prefix="editcli-facts-")  # noqa: SIM115 - held open
        file = _Lines(name, converted)
        fact_lines = _converted(rows, file, refused)
    try:
        lines = resolve_contradictions(fact_lines, refused, on_conflict, unit)
    except (sqlite3.Error, OSError) as error:
        raise EditorError(
            f"comparing the {unit}s of {name} failed: {error}",
            "make room for a temporary file about as large as FILE; `TMPDIR` names its folder",
        ) from error
    if not lines.lines:
        if isinstance(rows.container, JsonLines):
            _refuse_json_document(rows.container)
        if not refused:
            raise UsageError(f"{name} holds no facts", "`editcli facts --help` shows an example")
    return FactFile(
        name=name,
        facts=Facts(file, lines.lines, lines.offsets),
        refused=tuple(lines.refused),
        duplicates=tuple(lines.duplicates),
        superseded=tuple(lines.superseded),
        unit=unit,
        format=rows.format,
    )


class _Lines:
    """An open file with a fact on each line, in our format. ``name``: of the user's file."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self.name, self._file = name, file
        weakref.finalize(self, file.close)

    def fact_lines(self, refused: list[Refused]) -> Iterator[FactLine]:
        """The fact of each good line; the other lines are added to ``refused``."""
        offset = 0

        def lines() -> Iterator[bytes]:
            nonlocal offset
            self._file.seek(0)
            for raw in self._file:
                yield raw
                offset += len(raw)

        for line, fact in records(lines(), Fact.from_dict, refused):
            yield _fact_line(line, offset, fact)

    def add(self, fact: Fact) -> int:
        """Add a line to the end of the file; gives the byte at which it begins."""
        offset = self._file.tell()
        self._file.write(json.dumps(fact.to_dict(), ensure_ascii=False).encode() + b"\n")
        return offset

    def fact(self, offset: int) -> Fact:
        """The fact of the line that begins at byte ``offset``; raises UsageError without one."""
        self._file.seek(offset)
        for _, fact in records([self._file.readline()], Fact.from_dict, []):
            return fact
        raise UsageError(f"{self.name} was changed while it was read", "run the command again")


def _converted(rows: FactRows, file: _Lines, refused: list[Refused]) -> Iterator[FactLine]:
    """The facts of each good row, which are added to ``file``; the other rows are added to
    ``refused``."""
    for item in rows.facts():
        if isinstance(item, Refused):
            refused.append(item)
            continue
        number, facts = item
        for fact in facts:
            yield _fact_line(number, file.add(fact), fact)


def _fact_line(line: int, offset: int, fact: Fact) -> FactLine:
    return FactLine(line, offset, fact.prompt, fact.target, fact.id, fact.subject, fact.aliases)


def _refuse_columns(name: str, unknown: Sequence[str]) -> None:
    """Raise UsageError where a table has columns that belong to no fact: one may be misspelt."""
    if unknown:
        raise UsageError(
            f"{name}: {'; '.join(unknown_key(column, KEYS) for column in unknown)}",
            "`editcli facts convert` leaves such columns out, and takes others by name: "
            "`--column KEY=NAME`; a column that begins with `x_` is kept",
        )


def _refuse_json_document(container: JsonLines) -> None:
    """Raise UsageError where a file without a good line is one JSON object: a common mistake, which
    gets a message of its own."""
    container.file.seek(0)
    data = container.file.read(DOCUMENT_BYTES)
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return
    if b"\n" in data.strip():
        raise UsageError(
            f"{container.name} is one JSON object, not one JSON object a line",
            "`jq -c . FILE | editcli facts validate -`",
        )
