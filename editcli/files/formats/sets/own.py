"""Our own format: the keys of docs/facts.md, as JSON or as the columns of a table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from editcli.files.formats.base import Format, Row
from editors import Fact

KEYS = tuple(field.name for field in fields(Fact) if field.name != "extra")
"""The keys of a fact."""

LISTS = ("aliases", "rephrases", "variants", "tags")
PROBES = ("locality", "portability")


def _facts(row: Row) -> Iterable[Row]:
    return [row]


def from_cells(row: Row) -> dict[str, Any]:
    """The fact in a row of a table. The cell of a list is JSON, or one text. Other columns than
    those of a fact are left out."""
    return {key: _value(key, cell) for key, cell in row.items() if is_column(key)}


def is_column(name: str) -> bool:
    """Whether a column of this name belongs to a fact."""
    return name in KEYS or name.startswith("x_")


def _value(key: str, cell: str) -> object:
    if key not in (*LISTS, *PROBES):
        return cell
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, list):
        return value
    return [{"prompt": cell}] if key in PROBES else [cell]


OWN = Format("editcli", "the facts of editcli (docs/facts.md)", ("prompt", "target"), _facts)
