"""JSON Lines, and a JSON list, of which one record at a time is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from editcli.errors import UsageError
from editcli.files.containers.base import Numbered, Unit
from editcli.files.jsonl import Refused, not_an_object, records
from editcli.wording import counted

BOM = b"\xef\xbb\xbf"


class JsonLines:
    """A JSON object on each line. ``file``: open for reading bytes, and seekable."""

    unit: Unit = "line"
    columns = None

    def __init__(self, name: str, file: BinaryIO) -> None:
        self.name, self.file = name, file

    def rows(self) -> Iterator[Numbered | Refused]:
        refused: list[Refused] = []
        self.file.seek(0)
        for numbered in records(self.file, dict, refused):
            yield from refused
            refused.clear()
            yield numbered
        yield from refused


class JsonList:
    """A JSON list of objects. Of a key that is twice in one object, the last value counts."""

    unit: Unit = "record"
    columns = None

    def __init__(self, name: str, file: BinaryIO) -> None:
        self.name, self._file = name, file

    def rows(self) -> Iterator[Numbered | Refused]:
        import ijson

        self._file.seek(0)
        if self._file.read(len(BOM)) != BOM:
            self._file.seek(0)
        number = 0
        try:
            for value in ijson.items(self._file, "item", use_float=True):
                number += 1
                if isinstance(value, dict):
                    yield number, value
                else:
                    yield Refused(number, not_an_object(value))
        except ijson.JSONError as problem:
            raise UsageError(
                f"{self.name} is no JSON list: {_why(problem)} after {counted(number, 'record')}",
                "`python -m json.tool FILE` shows the place; NaN and Infinity are not JSON",
            ) from problem


def _why(problem: Exception) -> str:
    """The first line of a message of the parser, which may be bytes; it shows the place below."""
    message = problem.args[0] if problem.args else ""
    text = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
    return text.partition("\n")[0].strip().rstrip(".")
