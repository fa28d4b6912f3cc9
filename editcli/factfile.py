"""Fact files: JSON Lines in, with every bad line reported at once.

A file is judged as a whole, since facts can contradict each other: two facts with one prompt and
different targets are both refused, unless the newest (the later line) is asked to win. The same
fact twice is a no-op and is noted.
"""

from __future__ import annotations

import io
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal, NoReturn

import jsonlines

from editcli.errors import FactsRefused, UsageError
from editors import Fact, InvalidFact


@dataclass(frozen=True, slots=True)
class FactLine:
    """A fact and the line it stands on, counted from 1."""

    line: int
    fact: Fact


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that gives no fact, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Replaced:
    """A fact left out because of another line: `by` repeats it or is newer."""

    line: int
    by: int
    fact: Fact


@dataclass(frozen=True, slots=True)
class FactFile:
    """What a fact file holds; everything in the order of lines.

    `accepted` are the facts to use, `duplicates` repeat an accepted fact, `superseded` lost to a
    newer line in the same file.
    """

    name: str
    accepted: tuple[FactLine, ...]
    refused: tuple[Refused, ...]
    duplicates: tuple[Replaced, ...]
    superseded: tuple[Replaced, ...]

    @property
    def facts(self) -> tuple[Fact, ...]:
        """The facts to use, in order."""
        return tuple(entry.fact for entry in self.accepted)

    def findings(self) -> list[str]:
        """The refused lines as `name:line: reason`."""
        return [f"{self.name}:{bad.line}: {bad.reason}" for bad in self.refused]

    def remarks(self, most: int | None = None) -> list[str]:
        """The lines left out without being at fault, as `name:line: why`; at most so many."""
        same = [(bad.line, f"same fact as line {bad.by}, left out") for bad in self.duplicates]
        older = [(bad.line, f"superseded by line {bad.by}") for bad in self.superseded]
        lines = [f"{self.name}:{line}: {what}" for line, what in sorted(same + older)]
        if most is None or len(lines) <= most:
            return lines
        more = len(lines) - most
        count = "1 more line is" if more == 1 else f"{more} more lines are"
        return [*lines[:most], f"{self.name}: {count} left out or superseded"]

    def refusing(self, objection: Callable[[Fact], str | None]) -> FactFile:
        """The same file without the facts that `objection` gives a reason against."""
        accepted, refused = [], list(self.refused)
        for entry in self.accepted:
            reason = objection(entry.fact)
            if reason is None:
                accepted.append(entry)
            else:
                refused.append(Refused(entry.line, reason))
        refused.sort(key=lambda bad: bad.line)
        return replace(self, accepted=tuple(accepted), refused=tuple(refused))

    def require(self, *, skip_bad: bool = False) -> tuple[Fact, ...]:
        """The facts; raises FactsRefused naming every refused line, unless `skip_bad`."""
        if self.refused and not skip_bad:
            count = len(self.refused)
            lines = "1 line is" if count == 1 else f"{count} lines are"
            message = "\n".join([f"{lines} refused in {self.name}", *self.findings()])
            raise FactsRefused(message, self.hint())
        return self.facts

    def hint(self) -> str:
        """What helps against the refused lines."""
        if any(bad.reason.startswith(_CONTRADICTS) for bad in self.refused):
            return "mend the lines, or let the later one win with `--on-conflict newest`"
        return "mend the lines; `apply` and `facts dedupe` leave them out with `--skip-bad`"


_CONTRADICTS = "contradicts "


def read_facts(
    source: str,
    *,
    on_conflict: Literal["refuse", "newest"] = "refuse",
    stdin: BinaryIO | None = None,
) -> FactFile:
    """Read the fact file at path `source`, or standard input if it is "-".

    Raises UsageError when there is nothing to judge: no such file, no facts, or not JSON Lines.
    """
    name = "<stdin>" if source == "-" else source
    data = read_bytes(source, stdin)
    good, refused = _parse(name, data)
    if not good and not refused:
        raise UsageError(f"{name} holds no facts", "`editcli facts --help` shows an example")
    return _judge(name, good, refused, on_conflict)


def read_bytes(source: str, stdin: BinaryIO | None = None) -> bytes:
    """The bytes of the file at `source`, or of standard input for "-"; raises UsageError."""
    if source == "-":
        return (sys.stdin.buffer if stdin is None else stdin).read()
    try:
        return Path(source).read_bytes()
    except (OSError, ValueError) as problem:
        why = getattr(problem, "strerror", None) or str(problem)
        raise UsageError(
            f"cannot read {source}: {why.lower()}", "`-` reads from standard input"
        ) from problem


def _parse(name: str, data: bytes) -> tuple[list[FactLine], list[Refused]]:
    """Each line on its own. Raises UsageError for a file that is something else than JSON Lines."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(
            f"{name} is UTF-16, not UTF-8", "`iconv -f UTF-16 -t UTF-8 FILE | editcli ... -`"
        )
    good: list[FactLine] = []
    refused: list[Refused] = []
    for line, value in json_lines(data):
        if isinstance(value, str):
            refused.append(Refused(line, value))
            continue
        try:
            good.append(FactLine(line, Fact.from_dict(value)))
        except InvalidFact as problem:
            refused.append(Refused(line, problem.message))
    if not good:
        _refuse_json_document(name, data)
    return good, refused


def json_lines(data: bytes) -> Iterator[tuple[int, dict[str, object] | str]]:
    """Line number and JSON object of each line that is not blank, or what is wrong with it."""
    number = 0

    def counted() -> Iterator[bytes]:
        nonlocal number
        # Not splitlines(): JSON text may hold other line separators.
        for raw in io.BytesIO(data):
            number += 1
            yield raw.strip(b" \t\r\n")

    reader = jsonlines.Reader(counted(), loads=_loads)
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
    """Strict JSON: a key twice, NaN and Infinity are errors rather than lost or kept silently."""
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    out: dict[str, object] = {}
    for key, value in pairs:
        if key in out:
            raise ValueError(f"the key {key!r} occurs twice")
        out[key] = value
    return out


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


def _refuse_json_document(name: str, data: bytes) -> None:
    """A file without one good line may be a JSON document, a common mistake worth its own words."""
    lines = [line for line in data.splitlines() if line.strip()]
    if len(lines) < 2 and not data.lstrip().startswith(b"["):
        return
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return
    filter_ = ".[]" if isinstance(value, list) else "."
    raise UsageError(
        f"{name} is one JSON document, not one JSON object a line",
        f"`jq -c '{filter_}' FILE | editcli facts validate -`",
    )


def _judge(
    name: str,
    good: list[FactLine],
    refused: list[Refused],
    on_conflict: Literal["refuse", "newest"],
) -> FactFile:
    good, clashes = _without_id_clashes(good)
    contradictions: list[Refused] = []
    superseded: list[Replaced] = []
    if on_conflict == "refuse":
        good, contradictions = _without_contradictions(good)
    duplicates: list[Replaced] = []
    current: dict[str, FactLine] = {}
    for entry in good:
        before = current.get(entry.fact.prompt)
        if before is not None and before.fact.target == entry.fact.target:
            duplicates.append(Replaced(entry.line, before.line, entry.fact))
            continue
        if before is not None:
            superseded.append(Replaced(before.line, entry.line, before.fact))
        current[entry.fact.prompt] = entry
    return FactFile(
        name=name,
        accepted=tuple(sorted(current.values(), key=lambda entry: entry.line)),
        refused=tuple(sorted([*refused, *clashes, *contradictions], key=lambda bad: bad.line)),
        duplicates=tuple(duplicates),
        superseded=tuple(superseded),
    )


def _without_id_clashes(good: list[FactLine]) -> tuple[list[FactLine], list[Refused]]:
    """Refuse an id that an earlier line gave to another prompt: ids must name one fact."""
    kept: list[FactLine] = []
    refused: list[Refused] = []
    owner: dict[str, FactLine] = {}
    for entry in good:
        first = owner.setdefault(entry.fact.id, entry)
        if first.fact.prompt == entry.fact.prompt:
            kept.append(entry)
        else:
            refused.append(
                Refused(
                    entry.line, f"id: {entry.fact.id!r} names another fact on line {first.line}"
                )
            )
    return kept, refused


def _without_contradictions(good: list[FactLine]) -> tuple[list[FactLine], list[Refused]]:
    """Refuse all lines of a prompt that is given more than one target."""
    groups: dict[str, list[FactLine]] = defaultdict(list)
    for entry in good:
        groups[entry.fact.prompt].append(entry)
    kept: list[FactLine] = []
    refused: list[Refused] = []
    for entry in good:
        group = groups[entry.fact.prompt]
        other = next((rival for rival in group if rival.fact.target != entry.fact.target), None)
        if other is None:
            kept.append(entry)
        else:
            reason = (
                f"{_CONTRADICTS}line {other.line}: the same prompt with the target "
                f"{entry.fact.target!r} here and {other.fact.target!r} there"
            )
            refused.append(Refused(entry.line, reason))
    return kept, refused
