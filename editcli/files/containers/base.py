"""What is common to all containers of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

from editcli.files.jsonl import Refused

Unit = Literal["line", "record", "row"]
"""What the number of a row counts."""

Numbered = tuple[int, dict[str, Any]]
"""A row with its number, counted from 1."""


class Container(Protocol):
    """A file of rows. It may be gone through several times.

    ``name``: of the file, in messages; ``unit``: what the number of a row counts; ``columns``: the
    columns of a table, None for what is no table.
    """

    name: str
    unit: Unit

    @property
    def columns(self) -> Sequence[str] | None: ...

    def rows(self) -> Iterator[Numbered | Refused]:
        """Every row in order, or why it cannot be read.

        Raises:
            UsageError: what follows cannot be read at all.
        """
        ...
