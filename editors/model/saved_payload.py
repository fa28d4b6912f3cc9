"""The payload of a method as it is stored. Needs no tensor library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Groups = tuple[tuple[str, ...], ...]
"""The ids of facts, group by group: those of a group were trained together."""


@dataclass(frozen=True, slots=True)
class SavedPayload:
    """A payload as it is stored: a plain JSON ``summary``, and named ``blobs`` of bytes.

    ``made_from``: by the name of a blob, the facts that it was made from, in the order in which
    they were entered. A blob that depends on no fact is left out. So a blob can be found and
    removed with the facts that are in it, and the ids of facts are nowhere else in a payload. The
    summary does not grow with the facts.
    """

    summary: Mapping[str, Any]
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    made_from: Mapping[str, Groups] = field(default_factory=dict)

    def facts(self) -> set[str]:
        """The ids of all facts that the payload was made from."""
        return {fact for groups in self.made_from.values() for group in groups for fact in group}


def numbered(names: Iterable[str], prefix: str) -> list[str]:
    """Those of ``names`` that are ``prefix`` and a number, in the order of the numbers."""
    return sorted((n for n in names if n.startswith(prefix)), key=lambda name: (len(name), name))
