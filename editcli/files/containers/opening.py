"""Opens a file of rows, and finds out what they are kept in."""

from __future__ import annotations

import sys
from io import BufferedReader
from pathlib import PurePath
from typing import BinaryIO, cast

from editcli.errors import UsageError
from editcli.files.containers.base import Container
from editcli.files.containers.json_files import BOM, JsonLines, JsonList
from editcli.files.containers.rereading import rereadable
from editcli.files.containers.tables import CsvFile, Spreadsheet
from editcli.files.jsonl import opened

FIRST_BYTES = 2**16  # of a file, among which its first bracket is looked for


def open_container(source: str) -> Container:
    """The rows of the file at path ``source``, or of standard input if it is "-".

    A table is told by the end of its name, a JSON list by its first bracket; all else is JSON
    Lines. What cannot be read twice (standard input, a pipe) is copied to a temporary file, as far
    as it is read.

    Raises:
        UsageError: the file cannot be read, or is UTF-16.
        EditorError: it is a spreadsheet, and nothing is installed to read it.
    """
    name = "<stdin>" if source == "-" else source
    file = sys.stdin.buffer if source == "-" else opened(source)
    if source == "-" or not file.seekable():
        file = rereadable(cast("BufferedReader", file))
    end = PurePath(source).suffix.lower()
    if end in (".xlsx", ".xlsm"):
        return Spreadsheet(name, file)
    first = _first_bytes(name, file)
    if end in (".csv", ".tsv"):
        return CsvFile(name, file, "\t" if end == ".tsv" else None)
    if first.removeprefix(BOM).lstrip().startswith(b"["):
        return JsonList(name, file)
    return JsonLines(name, file)


def _first_bytes(name: str, file: BinaryIO) -> bytes:
    first = b""
    try:
        file.seek(0)
        # Of a pipe, no more than what has come: the rest may take long.
        while not first.removeprefix(BOM).lstrip() and len(first) < FIRST_BYTES:
            more = cast("BufferedReader", file).read1(FIRST_BYTES - len(first))
            if not more:
                break
            first += more
    except OSError as problem:
        why = (problem.strerror or str(problem)).lower()
        raise UsageError(f"{name} cannot be read: {why}", "copy it to another disk") from problem
    if first.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(
            f"{name} is UTF-16, not UTF-8", "`iconv -f UTF-16 -t UTF-8 FILE > NEW`, and read that"
        )
    return first
