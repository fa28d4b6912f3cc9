"""JSON Lines, read strictly: every line that is no JSON object is named with its number and why."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

import jsonlines

from editcli.errors import UsageError


def opened(source: str) -> BinaryIO:
    """The file at `source`, open for reading bytes; the caller closes it. Raises UsageError."""
    try:
        return Path(source).open("rb")
    except (OSError, ValueError) as problem:
        why = getattr(problem, "strerror", None) or str(problem)
        raise UsageError(
            f"cannot read {source}: {why.lower()}", "`-` reads from standard input"
        ) from problem


def read_bytes(source: str) -> bytes:
    """The bytes of the file at `source`, or of standard input for "-"; raises UsageError."""
    if source == "-":
        return sys.stdin.buffer.read()
    with opened(source) as file:
        return file.read()


def json_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, dict[str, object] | str]]:
    """Each line that is not blank: its number, and its JSON object or what is wrong with it.

    `lines`: an open file, or `io.BytesIO`, which end a line at a newline alone; JSON text may hold
    other characters that end a line elsewhere. One line is read at a time.
    """
    number = 0

    def stripped() -> Iterator[bytes]:
        nonlocal number
        for raw in lines:
            number += 1
            yield raw.strip(b" \t\r\n")

    reader = jsonlines.Reader(stripped(), loads=_loads)
    while True:
        try:
            value = reader.read(allow_none=True, skip_empty=True)
        except EOFError:
            return
        except jsonlines.InvalidLineError as problem:
            yield number, _why(problem)
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            yield number, f"must be a JSON object, not {json.dumps(value)[:40]}"


def _loads(text: str | bytes) -> object:
    """Strict JSON: a repeated key, NaN and Infinity are errors."""
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique: dict[str, object] = {}
    for key, value in pairs:
        if key in unique:
            raise ValueError(f"the key {key!r} occurs twice")
        unique[key] = value
    return unique


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _why(problem: jsonlines.InvalidLineError) -> str:
    cause = problem.__cause__
    if isinstance(cause, UnicodeDecodeError):
        byte = cause.object[cause.start]
        return f"not UTF-8: byte 0x{byte:02x} at position {cause.start + 1}"
    if isinstance(cause, json.JSONDecodeError):
        return f"not JSON: {cause.msg[:1].lower()}{cause.msg[1:]} at column {cause.colno}"
    return f"not JSON: {cause}"
