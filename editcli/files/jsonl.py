"""JSON Lines, read strictly: every line that cannot be used is named with its number and why."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

import jsonlines

from editcli.errors import FactsRefused, UsageError
from editcli.wording import counted_are
from editors import EditorError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that cannot be used, and why. ``line`` counts from 1, in other files than JSON Lines
    the records or rows."""

    line: int
    reason: str


def findings(name: str, refused: Sequence[Refused], unit: str = "line") -> list[str]:
    """The refused lines of file ``name`` as ``name:line: reason``; what counts another ``unit``
    names it."""
    return [f"{place(name, bad.line, unit)}: {bad.reason}" for bad in refused]


def place(name: str, number: int, unit: str) -> str:
    """A line of file ``name`` as editors take it (``name:3``), or ``name, record 3``."""
    return f"{name}:{number}" if unit == "line" else f"{name}, {unit} {number}"


def refusal(name: str, refused: Sequence[Refused], hint: str, unit: str = "line") -> FactsRefused:
    """The error that names every refused line."""
    count = counted_are(len(refused), unit)
    lines = [f"{count} refused in {name}", *findings(name, refused, unit)]
    return FactsRefused("\n".join(lines), hint)


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
    with nullcontext(sys.stdin.buffer) if source == "-" else opened(source) as file:
        try:
            return file.read()
        except OSError as problem:
            name = "<stdin>" if source == "-" else source
            why = (problem.strerror or str(problem)).lower()
            hint = "copy it to another disk"
            raise UsageError(f"{name} cannot be read: {why}", hint) from problem


def records(
    lines: Iterable[bytes], make: Callable[[dict[str, Any]], T], refused: list[Refused]
) -> Iterator[tuple[int, T]]:
    """What `make` makes of the JSON object on each line, with the number of the line.

    Blank lines are passed over. Lines that are no JSON object, or for which `make` raises
    EditorError, are added to `refused`. `lines`: an open file, or `io.BytesIO`, which end a line at
    a newline alone; JSON text may hold other characters that end a line elsewhere. One line is read
    at a time.
    """
    number = 0

    def numbered() -> Iterator[bytes]:
        nonlocal number
        for raw in lines:
            number += 1
            yield raw.strip(b" \t\r\n")

    reader = jsonlines.Reader(numbered(), loads=_json_object)
    while True:
        try:
            record = make(reader.read(type=dict, skip_empty=True))
        except EOFError:
            return
        except jsonlines.InvalidLineError as problem:
            refused.append(Refused(number, _why(problem.__cause__)))
        except EditorError as problem:
            refused.append(Refused(number, problem.message))
        else:
            yield number, record


def _json_object(text: str | bytes) -> dict[str, Any]:
    """Strict JSON: a repeated key, NaN and Infinity are errors. Raises EditorError and
    ValueError."""
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise EditorError(not_an_object(value))
    return value


def not_an_object(value: object) -> str:
    """Why a JSON value that is no object cannot be a row."""
    return f"must be a JSON object, not {json.dumps(value)[:40]}"


def _why(cause: BaseException | None) -> str:
    if isinstance(cause, UnicodeDecodeError):
        return f"not UTF-8: byte 0x{cause.object[cause.start]:02x} at position {cause.start + 1}"
    if isinstance(cause, json.JSONDecodeError):
        return f"not JSON: {cause.msg[:1].lower()}{cause.msg[1:]} at column {cause.colno}"
    return f"not JSON: {cause}"


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique: dict[str, object] = {}
    for key, value in pairs:
        if key in unique:
            raise ValueError(f"the key {key!r} occurs twice")
        unique[key] = value
    return unique


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
