"""Tables: CSV, with tabs or semicolons too, and spreadsheets. The first row names the columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from datetime import datetime, time
from functools import cached_property
from itertools import islice
from typing import BinaryIO

from editcli.errors import UsageError
from editcli.files.containers.base import Numbered, Unit
from editcli.files.jsonl import Refused
from editcli.wording import counted
from editors import EditorError

DELIMITERS = ",;\t"


class _Table:
    """Rows by columns, without the white space around a cell. An empty cell is left out of its row,
    an empty row is passed over, and so is a column without a name."""

    name: str

    def _cells(self) -> Iterator[tuple[int, Sequence[str]]]:
        """The cells of each row with its number, the names of the columns first."""
        raise NotImplementedError

    @cached_property
    def columns(self) -> Sequence[str]:
        """Raises UsageError where two columns have one name."""
        names = [cell.strip() for cell in next(self._cells(), (0, ()))[1]]
        twice = [name for name in names if name and names.count(name) > 1]
        if twice:
            raise UsageError(f"{self.name}: the column {twice[0]!r} is there twice", "rename one")
        return names

    def rows(self) -> Iterator[Numbered | Refused]:
        columns = self.columns
        for number, values in islice(self._cells(), 1, None):
            cells = [*map(str.strip, values)]
            if any(cells[len(columns) :]):
                there, named = counted(len(cells), "cell"), counted(len(columns), "column")
                yield Refused(number, f"{there}, and {named}")
            elif any(cells):
                filled = zip(columns, cells, strict=False)
                yield number, {name: cell for name, cell in filled if name and cell}


class CsvFile(_Table):
    """CSV in UTF-8. Its lines are counted as an editor does, so that a cell may have several.

    ``delimiter``: None for that of :data:`DELIMITERS` that is most often in the first line.
    """

    unit: Unit = "line"

    def __init__(self, name: str, file: BinaryIO, delimiter: str | None = None) -> None:
        self.name, self._file, self._delimiter = name, file, delimiter

    def _cells(self) -> Iterator[tuple[int, Sequence[str]]]:
        self._file.seek(0)
        text = io.TextIOWrapper(self._file, "utf-8-sig", newline="")
        last = 0
        try:
            first = text.readline()
            delimiter = self._delimiter or max(DELIMITERS, key=first.count)
            text.seek(0)
            reader = csv.reader(text, delimiter=delimiter, strict=True)
            for cells in reader:
                yield last + 1, cells
                last = reader.line_num
        except UnicodeDecodeError as problem:
            raise UsageError(
                f"{self.name}: not UTF-8 after line {last}: {problem.reason}",
                "`iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW.csv`",
            ) from problem
        except csv.Error as problem:
            raise UsageError(
                f"{self.name}: not CSV after line {last}: {problem}",
                'a cell with quotes is quoted, and its quotes are doubled: `"say ""so"""`',
            ) from problem
        finally:
            text.detach()


class Spreadsheet(_Table):
    """The first sheet of an Excel workbook, read without the rest of it."""

    unit: Unit = "row"

    def __init__(self, name: str, file: BinaryIO) -> None:
        """Raises EditorError where the library that reads workbooks is not installed."""
        try:
            import openpyxl
        except ModuleNotFoundError as problem:
            raise EditorError(
                f"{name} is a spreadsheet, and nothing is installed to read it",
                "`pip install 'editcli[excel]'`, or save it as CSV",
            ) from problem
        self.name, self._file, self._library = name, file, openpyxl

    def _cells(self) -> Iterator[tuple[int, Sequence[str]]]:
        self._file.seek(0)
        try:
            workbook = self._library.load_workbook(self._file, read_only=True, data_only=True)
            sheet = workbook.worksheets[0]
            sheet.reset_dimensions()  # some programs write wrong ones
            for number, values in enumerate(sheet.iter_rows(values_only=True), start=1):
                yield number, [*map(_as_text, values)]
        except Exception as problem:  # a damaged archive raises whatever its parts raise
            raise UsageError(
                f"{self.name} is no workbook that can be read: {problem}", "save it as CSV"
            ) from problem


def _as_text(value: object) -> str:
    """A cell as text: a whole number without a fraction, and a day without a time."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, datetime) and value.time() == time():
        value = value.date()
    return str(value)
