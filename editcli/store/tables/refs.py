"""What versions are called: ids, numbers, tags, HEAD, and `~N` for ancestors."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from difflib import get_close_matches

from editcli.errors import UnknownVersion
from editcli.store.records import NUMBER, version_id
from editcli.store.tables import history
from editcli.store.tables.history import number_of
from editors import EditorError

_STEPS = re.compile(r"(.*?)(?:~([0-9]{0,9}))?", re.DOTALL)


def resolved(base: sqlite3.Connection, ref: str) -> int:
    """The number of the version that ``ref`` means. Raises EditorError, whose hint is the nearest
    name, where there is no such version."""
    match = _STEPS.fullmatch(ref)
    assert match is not None  # the pattern matches every text
    steps = 0 if match[2] is None else int(match[2] or 1)
    number = history.ancestor(base, _named(base, match[1], ref), steps)
    if number is None:
        raise EditorError(
            f"{ref!r} goes back beyond the first version", "`editcli log` lists the versions"
        )
    return number


def _named(base: sqlite3.Connection, name: str, ref: str) -> int:
    """The number of the version called `name`; `ref`: what the user typed, for the error."""
    newest = history.newest(base)
    if match := NUMBER.fullmatch(name):
        number = int(match[1])
        if 0 < number <= newest:
            return number
    names: Mapping[str, str] = {"HEAD": history.last_event(base).head, **history.tags(base)}
    if name in names:
        return number_of(names[name])
    by_lower = {candidate.lower(): candidate for candidate in names}
    close = get_close_matches(name.lower(), by_lower, n=1)
    suggestion = version_id(newest) if match else by_lower[close[0]] if close else ""
    hint = f"did you mean `{suggestion}`? " if suggestion else ""
    raise UnknownVersion(f"no version is called {ref!r}", f"{hint}`editcli log` lists the versions")
