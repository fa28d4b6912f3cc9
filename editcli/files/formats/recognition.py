"""Recognises the format of a file by the keys of its rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from editcli.errors import UsageError
from editcli.files.formats.base import Format, Row, missing_keys
from editcli.files.formats.registry import FORMATS
from editcli.files.formats.sets.no_facts import NO_FACTS, NoFacts
from editcli.files.formats.sets.own import OWN

LISTED = 12  # keys of an unknown row that are named


def recognised(name: str, rows: Iterable[Row], *, table: bool = False) -> Format:
    """The format of the first of ``rows`` that has one.

    A file without rows, or with empty ones alone, is taken for ours. So are rows that only misspell
    our keys, unless they are those of a ``table``, which are misspelt in all rows alike. Whoever
    reads such rows names what is wrong with each. ``name``: of the file, in messages.

    Raises:
        UsageError: no row has a format; its keys are named, and the nearest format with what is
            missing. Or the rows are no facts.
    """
    formats = [FORMATS.load(name) for name in FORMATS.names()]
    kinds: list[Format | NoFacts] = [*formats, *NO_FACTS]
    unknown: list[Row] = []
    for row in rows:
        if fitting := [kind for kind in kinds if not missing_keys(kind.keys, row)]:
            found = max(fitting, key=lambda kind: len(kind.keys))
            if isinstance(found, NoFacts):
                raise UsageError(f"{name} holds no facts, but {found.title}", found.hint)
            return found
        if row:
            unknown.append(row)
    if not unknown or (not table and any(map(_misspelt, unknown))):
        return OWN
    raise _unknown(name, unknown[0], formats, "columns" if table else "keys")


def _misspelt(row: Row) -> bool:
    """Whether the row has our keys, in a spelling that is close."""
    return all(_similar(key, row) for key in OWN.keys)


def _similar(key: str, row: Row) -> str | None:
    """The key of the row that is spelt most like ``key``, if one is at all."""
    folded = {name.lower(): name for name in row}
    close = get_close_matches(key.lower(), folded, n=1)
    return folded[close[0]] if close else None


def _unknown(name: str, row: Row, formats: Sequence[Format], called: str) -> UsageError:
    missing = {kind.name: missing_keys(kind.keys, row) for kind in formats}

    def share(kind: Format) -> tuple[float, bool]:
        return -len(missing[kind.name]) / len(kind.keys), kind is OWN

    nearest = max(formats, key=share)
    lacking = missing[nearest.name]
    keys = [repr(key) for key in row]
    more = f" and {len(keys) - LISTED} more" if len(keys) > LISTED else ""
    return UsageError(
        f"{name} has no known format: its {called} are {', '.join(keys[:LISTED])}{more}; the "
        f"nearest format is {nearest.name}, which needs {', '.join(map(repr, lacking))} as well",
        "`editcli facts formats` lists the formats; `editcli facts convert` takes keys by other "
        f"names: {_renaming(lacking, row)}"
        + ("" if nearest is OWN else f", or as facts of ours {_renaming(OWN.keys, row)}"),
    )


def _renaming(keys: Sequence[str], row: Row) -> str:
    """The options that take ``keys`` from the keys of ``row`` that are spelt most like them."""
    names = {key: _similar(key, row) or "NAME" for key in keys}
    return f"`{' '.join(f'--column {key}={name}' for key, name in names.items())}`"
