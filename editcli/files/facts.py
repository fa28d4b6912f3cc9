"""Fact files: JSON Lines in, with every bad line reported at once.

A file is read as a whole, since facts can contradict each other
(:mod:`editcli.files.consistency`). The file may be larger than memory, so each fact is read from it
only when it is used.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

from editcli.errors import UsageError
from editcli.files.consistency import (
    CONTRADICTS,
    FactLine,
    OnConflict,
    Replaced,
    resolve_contradictions,
)
from editcli.files.jsonl import Refused, findings, opened, records, refusal
from editcli.wording import counted_are
from editors import EditorError, Fact

DOCUMENT_BYTES = 2**24  # of a file, to see whether it is one JSON document


class Facts(Sequence[Fact]):
    """Facts of a file in order, each read from the file when it is used.

    `lines`: the line of each, counted from 1. Raises UsageError where the file has changed since it
    was read as a whole.
    """

    def __init__(self, source: _Source, lines: array[int], offsets: array[int]) -> None:
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
    in the same file.
    """

    name: str
    facts: Facts
    refused: tuple[Refused, ...]
    duplicates: tuple[Replaced, ...]
    superseded: tuple[Replaced, ...]

    def findings(self) -> list[str]:
        """The refused lines as `name:line: reason`."""
        return findings(self.name, self.refused)

    def remarks(self, limit: int | None = None) -> list[str]:
        """The repeated and superseded lines as `name:line: why`; past `limit`, only their count."""
        same = [(item.line, f"same fact as line {item.by}, left out") for item in self.duplicates]
        older = [(item.line, f"superseded by line {item.by}") for item in self.superseded]
        left_out = sorted([*same, *older])
        lines = [f"{self.name}:{line}: {why}" for line, why in left_out[:limit]]
        if more := len(left_out) - len(lines):
            lines.append(f"{self.name}: {counted_are(more, 'more line')} left out or superseded")
        return lines

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
            raise refusal(self.name, self.refused, self.hint())
        return self.facts

    def hint(self) -> str:
        """What helps against the refused lines."""
        if any(bad.reason.startswith(CONTRADICTS) for bad in self.refused):
            return (
                "correct the lines; with `--on-conflict newest`, `apply` and `facts dedupe` let "
                "the later line win"
            )
        return "correct the lines; `apply` and `facts dedupe` leave them out with `--skip-bad`"


def read_facts(source: str, *, on_conflict: OnConflict = "refuse") -> FactFile:
    """Read the fact file at path `source`, or standard input if it is "-".

    Raises UsageError when there is nothing to read: no such file, no facts, or not JSON Lines.
    """
    file = _Source(source)
    refused: list[Refused] = []
    try:
        lines = resolve_contradictions(file.fact_lines(refused), refused, on_conflict)
    except sqlite3.Error as error:
        raise EditorError(
            f"comparing the lines of {file.name} failed: {error}",
            "make room for a temporary file about as large as FILE; `TMPDIR` names its folder",
        ) from error
    if not lines.lines:
        file.refuse_json_document()
        if not refused:
            raise UsageError(
                f"{file.name} holds no facts", "`editcli facts --help` shows an example"
            )
    return FactFile(
        name=file.name,
        facts=Facts(file, lines.lines, lines.offsets),
        refused=tuple(lines.refused),
        duplicates=tuple(lines.duplicates),
        superseded=tuple(lines.superseded),
    )


class _Source:
    """An open fact file; a source that cannot be read twice (standard input, a pipe) is copied."""

    def __init__(self, source: str) -> None:
        """Raises UsageError for a file that cannot be read, or is UTF-16."""
        self.name = "<stdin>" if source == "-" else source
        file = sys.stdin.buffer if source == "-" else opened(source)
        if source == "-" or not file.seekable():
            copy = tempfile.TemporaryFile(prefix="editcli-facts-")  # noqa: SIM115 - held open
            shutil.copyfileobj(file, copy)
            file = copy
        self._file = file
        weakref.finalize(self, file.close)
        file.seek(0)
        if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise UsageError(
                f"{self.name} is UTF-16, not UTF-8",
                "`iconv -f UTF-16 -t UTF-8 FILE | editcli ... -`",
            )

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
            yield FactLine(
                line, offset, fact.prompt, fact.target, fact.id, fact.subject, fact.aliases
            )

    def fact(self, offset: int) -> Fact:
        """The fact of the line that begins at byte ``offset``; raises UsageError without one."""
        self._file.seek(offset)
        for _, fact in records([self._file.readline()], Fact.from_dict, []):
            return fact
        raise UsageError(f"{self.name} was changed while it was read", "run the command again")

    def refuse_json_document(self) -> None:
        """Raise UsageError where a file without a good line is one JSON document: a common mistake,
        which gets a message of its own."""
        self._file.seek(0)
        data = self._file.read(DOCUMENT_BYTES)
        try:
            is_list = isinstance(json.loads(data), list)
        except (ValueError, RecursionError):
            return
        if is_list or b"\n" in data.strip():
            jq_filter = ".[]" if is_list else "."
            raise UsageError(
                f"{self.name} is one JSON document, not one JSON object a line",
                f"`jq -c '{jq_filter}' FILE | editcli facts validate -`",
            )
