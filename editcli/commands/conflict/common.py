"""Options and cells of tables that the conflict commands share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from typer import Argument, Option

FileArgument = Annotated[
    str, Argument(metavar="FILE", help="A conflict file (JSON Lines), or - for standard input.")
]
LimitOption = Annotated[int | None, Option(metavar="N", min=1, help="Only the first N rows.")]
SplitOption = Annotated[Literal["all", "locate", "dev", "test"], Option(help="Which rows to use.")]
CorruptionOption = Annotated[
    Literal["each", "both"],
    Option(
        help="What to corrupt. each: the subject for memory scores, the answer for context scores; "
        "both: subject and answer for all scores."
    ),
]
UnitOption = Annotated[
    Literal["head", "group"],
    Option(help="head: single query heads; group: all query heads that share a key-value head."),
]


def rate_cells(record: Mapping[str, Any]) -> dict[str, object]:
    """The rates in the record of a group of rows, and their number."""
    rates = {name: f"{record[name]:.3f}" for name in ("memory", "context", "other")}
    return {**rates, "n": record["rows"]}
