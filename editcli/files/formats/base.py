"""What a format of fact files is: the keys that its rows have, and how a row becomes facts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
"""A parsed JSON object, or a row of a table by its columns. Any value may be of any type."""


@dataclass(frozen=True)
class Format:
    """A format of fact files.

    ``name``: what ``--from`` takes. ``title``: what the format is, in a few words. ``keys``: the
    keys that every row has, by which the format is recognised, each as :func:`value_at` takes it.
    ``facts``: the facts of a row, each as :meth:`editors.Fact.from_dict` takes it, with the answer
    that the set edits to as ``target`` and the one that was true before as ``ground_truth``. It
    raises InvalidFact for a row that it cannot read. What breaks the schema of facts is found
    without it.
    """

    name: str
    title: str
    keys: tuple[str, ...]
    facts: Callable[[Row], Iterable[Row]]


def missing_keys(keys: Iterable[str], row: Row) -> list[str]:
    """Those of ``keys`` that ``row`` lacks; a row that lacks none has the format."""
    return [key for key in keys if value_at(row, key) is None]


def value_at(row: Row, path: str) -> Any:
    """The value at ``path``: keys joined by dots, with ``[]`` after a key whose value is a list of
    which the first entry is meant ("requested_rewrite[].target_new.str"). None where there is
    none."""
    value: Any = row
    for step in path.split("."):
        key = step.removesuffix("[]")
        value = value.get(key) if isinstance(value, dict) else None
        if key != step:
            value = value[0] if isinstance(value, list) and value else None
    return value
