"""Lines of a file that cannot be used, and the error that names them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from editcli.errors import FactsRefused
from editcli.wording import counted_are


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that cannot be used, and why."""

    line: int
    reason: str


def findings(name: str, refused: Sequence[Refused]) -> list[str]:
    """The refused lines of file ``name`` as ``name:line: reason``."""
    return [f"{name}:{bad.line}: {bad.reason}" for bad in refused]


def refusal(name: str, refused: Sequence[Refused], hint: str) -> FactsRefused:
    """The error that names every refused line."""
    count = counted_are(len(refused), "line")
    return FactsRefused("\n".join([f"{count} refused in {name}", *findings(name, refused)]), hint)
