"""Lines that lead from each version to its parent, as `log --graph` and the report draw them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Place:
    """Where a version stands in a drawing that has the newest version on top.

    ``column``: its own, from 0. ``into``: the columns above that lead to it, its own first; none
    where no newer version does. ``passing``: columns above that lead to older versions, each with
    its column below. ``goes_on``: whether its column leads on, to its parent.
    """

    column: int
    into: tuple[int, ...]
    passing: tuple[tuple[int, int], ...]
    goes_on: bool

    @property
    def below(self) -> int:
        """The number of columns below it."""
        return len(self.passing) + self.goes_on


def placed(versions: Sequence[Mapping[str, Any]]) -> list[Place]:
    """The place of each version.

    ``versions``: records with `version` and `parent`, newest first. Parents may be missing.
    """
    known = {record["version"] for record in versions}
    columns: list[str] = []  # the version that each column leads to
    places = []
    for record in versions:
        version, parent = record["version"], record["parent"]
        into = [number for number, awaited in enumerate(columns) if awaited == version]
        passing = [number for number in range(len(columns)) if number not in into]
        column = into[0] if into else len(columns)
        goes_on = parent in known
        left = [*passing, column] if goes_on else passing
        below = {above: place for place, above in enumerate(sorted(left))}
        places.append(
            Place(column, tuple(into), tuple((above, below[above]) for above in passing), goes_on)
        )
        columns = [parent if above == column else columns[above] for above in sorted(left)]
    return places


def drawn(versions: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each version, newest first, its part of the drawing: a star in its own column, and a bar
    in those of other versions that lead to older ones. Where a column ends, a slash leads to the
    one that it joins.

    ``versions``: records with `version` and `parent`. Parents may be missing.
    """
    lines = []
    for place in placed(versions):
        cells = {above: "|" for above, _ in place.passing}
        cells |= dict.fromkeys(place.into, "/") | {place.column: "*"}
        lines.append(" ".join(cell for _, cell in sorted(cells.items())))
    return lines
