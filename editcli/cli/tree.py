"""Lines that lead from each version to its parent, as `log --graph` draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def drawn(versions: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each version, newest first, its part of the drawing: a star in its own column, and a bar
    in those of other versions that lead to older ones. Where a column ends, a slash leads to the
    one that it joins.

    ``versions``: records with `version` and `parent`. Parents may be missing.
    """
    known = {record["version"] for record in versions}
    columns: list[str] = []  # the version that each column leads to
    lines = []
    for record in versions:
        version, parent = record["version"], record["parent"]
        own = [number for number, awaited in enumerate(columns) if awaited == version]
        if not own:
            columns.append(version)
            own = [len(columns) - 1]
        cells = ["*" if n == own[0] else "/" if n in own else "|" for n in range(len(columns))]
        lines.append(" ".join(cells))
        columns = [awaited for n, awaited in enumerate(columns) if n == own[0] or n not in own]
        if parent in known:
            columns[own[0]] = parent
        else:
            del columns[own[0]]
    return lines
