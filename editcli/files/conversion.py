"""Rows of any format as facts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from editcli.errors import UsageError
from editcli.files.containers.base import Container
from editcli.files.formats.base import Format, Row
from editcli.files.formats.recognition import recognised
from editcli.files.formats.registry import FORMATS
from editcli.files.formats.sets.own import OWN, from_cells, is_column
from editcli.files.jsonl import Refused
from editors import EditorError, Fact, InvalidFact

Target = Literal["alt", "gold"]
"""Which answer of a row becomes the target: the one that the set edits to, or the true one."""

LOOKED_AT = 100  # rows of a file, from which its format is told


@dataclass(frozen=True)
class Choices:
    """How rows are to be read. ``format``: its name, None to recognise it. ``columns``: by key, the
    column or key that a file has in its place."""

    format: str | None = None
    target: Target = "alt"
    columns: Mapping[str, str] = field(default_factory=dict)


class FactRows:
    """The rows of a container, and the facts of each; ``format``: the format of the rows."""

    def __init__(self, container: Container, choices: Choices | None = None) -> None:
        """Recognise the format, unless it is chosen.

        Raises:
            UsageError: the format is not known, or a column that was named is not there.
            EditorError: no format has the name that was chosen.
        """
        self.container = container
        self._choices = choices or Choices()
        first = self._first_rows()
        if self._choices.columns:
            first = [*first]
            self._require_columns(first)
        name = self._choices.format
        self.format = FORMATS.load(name) if name else self._recognised(first)

    def facts(self) -> Iterator[tuple[int, list[Fact]] | Refused]:
        """Every row in order: its number and its facts, or why it has none. A row whose facts are
        not all good has none.

        Raises:
            UsageError: what follows cannot be read at all.
        """
        for item in self.container.rows():
            if isinstance(item, Refused):
                yield item
                continue
            number, row = item
            try:
                facts = self._facts_of(self._renamed(row))
            except EditorError as problem:
                yield Refused(number, problem.message)
            else:
                yield number, facts

    @property
    def unknown_columns(self) -> list[str]:
        """The columns of a table of our own facts that belong to no fact."""
        if self.format is not OWN:
            return []
        header = self._renamed({name: "" for name in self.container.columns or () if name})
        return [name for name in header if not is_column(name)]

    def _facts_of(self, row: Row) -> list[Fact]:
        if self.format is OWN and self.container.columns is not None:
            row = from_cells(row)
        chosen = [self._with_target(fields) for fields in self.format.facts(row)]
        if not chosen:
            raise InvalidFact("the row holds no fact")
        return [*map(Fact.from_dict, chosen)]

    def _with_target(self, fields: Row) -> Row:
        """The fields of a fact with the chosen answer for their target. What follows from the
        answer of the set does not follow from the true one."""
        truth = fields.get("ground_truth")
        if self._choices.target == "gold":
            if truth is None:
                raise InvalidFact("ground_truth: the row has no true answer besides its target")
            return _without(fields, "ground_truth", "portability") | {"target": truth}
        if self.format is not OWN and truth == fields.get("target"):  # so it was true before
            return _without(fields, "ground_truth")
        return fields

    def _renamed(self, row: Row) -> Row:
        columns = self._choices.columns
        if not columns:
            return row
        taken = {columns[key]: row[columns[key]] for key in columns if columns[key] in row}
        others = {key: value for key, value in row.items() if key not in taken}
        return others | {key: taken[name] for key, name in columns.items() if name in taken}

    def _first_rows(self) -> Iterable[Row]:
        """The rows to recognise the format by, no more of which are read than are needed; of a
        table, its header alone."""
        if self.container.columns is not None:
            return [{name: "" for name in self.container.columns if name}]
        items = islice(self.container.rows(), LOOKED_AT)
        return (item[1] for item in items if not isinstance(item, Refused))

    def _require_columns(self, first: Iterable[Row]) -> None:
        there = dict.fromkeys(name for row in first for name in row)
        if not there:
            return
        for name in self._choices.columns.values():
            if name not in there:
                raise UsageError(
                    f"{self.container.name} has no {name!r}, but {', '.join(map(repr, there))}",
                    "`--column KEY=NAME` takes a NAME that the file has",
                )

    def _recognised(self, first: Iterable[Row]) -> Format:
        table = self.container.columns is not None
        return recognised(self.container.name, map(self._renamed, first), table=table)


def _without(fields: Row, *keys: str) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in keys}
