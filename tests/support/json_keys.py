"""The keys of JSON records, as docs/json.md has them."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from typer.testing import Result

PAGE = Path(__file__).parents[2] / "docs" / "json.md"
TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "number": (int, float),
    "count": (int,),
    "yes or no": (bool,),
    "list": (list,),
    "object": (dict,),
}


@cache
def documented() -> dict[str, str]:
    """By key, the type that the page gives it."""
    table = PAGE.read_text(encoding="utf-8").partition("## Keys")[2]
    rows = re.findall(r"^\| (`.*?`) \| (.*?) \|", table, re.MULTILINE)
    pairs = [(key, kind) for keys, kind in rows for key in re.findall(r"`(\w+)`", keys)]
    assert len(dict(pairs)) == len(pairs), "a key has one row"
    return dict(pairs)


def wrong_keys(record: dict[str, Any]) -> list[str]:
    """The keys of a record that the page does not have, or has with another type."""
    types = documented()
    return [f"{key}: {value!r}" for key, value in record.items() if not _fits(types, key, value)]


def _fits(types: dict[str, str], key: str, value: object) -> bool:
    if key not in types:
        return False
    kind = types[key]
    if value is None:
        return kind.endswith(", or null")
    found = TYPES[kind.removesuffix(", or null")]
    return isinstance(value, found) and (bool in found or not isinstance(value, bool))


def records_of(result: Result) -> list[dict[str, Any]]:
    """The records that a command printed with `--json`, whose keys are those of the page."""
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["schema"] for record in records] == [2] * len(records)
    wrong = [key for record in records for key in wrong_keys(record)]
    assert not wrong, wrong
    return records


def rows_of(result: Result) -> list[dict[str, Any]]:
    """The same without `schema`, for lists."""
    return [
        {key: value for key, value in record.items() if key != "schema"}
        for record in records_of(result)
    ]
