"""Counts the rows that are left out, by reason, and keeps the first of each."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from editcli.files.jsonl import Refused

SHOWN = 5  # rows that are named of each reason
REASONS = 100  # reasons that are told apart; a file may have as many as it has rows

_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
_NUMBER = re.compile(r"\d+")
_NEAREST = re.compile(r" \((?:the nearest is|did you mean) [^)]*\)")
_OTHER = "other reasons"


@dataclass(slots=True)
class LeftOut:
    """The rows that are left out for one reason: how many, and the first of them."""

    reason: str
    count: int = 0
    first: list[Refused] = field(default_factory=list)


class Tally:
    """The rows that are left out. Its memory does not grow with them."""

    def __init__(self) -> None:
        self._by_reason: dict[str, LeftOut] = {}

    def add(self, refused: Refused) -> None:
        """Count one more row."""
        reason = _general(refused.reason)
        if reason not in self._by_reason and len(self._by_reason) >= REASONS:
            reason = _OTHER
        entry = self._by_reason.setdefault(reason, LeftOut(reason))
        entry.count += 1
        if len(entry.first) < SHOWN:
            entry.first.append(refused)

    @property
    def count(self) -> int:
        """How many rows were counted."""
        return sum(entry.count for entry in self._by_reason.values())

    def reasons(self) -> list[LeftOut]:
        """The reasons, the most frequent first."""
        return sorted(self._by_reason.values(), key=lambda entry: -entry.count)


def _general(reason: str) -> str:
    """A reason without the values of its row."""
    return _NUMBER.sub("N", _NEAREST.sub("", _QUOTED.sub("...", reason)))
