"""Versions that nothing in use comes from: they were rejected, or HEAD and every tag left them.

A version is in use if it, or one that came from it, is HEAD or has a tag. What only others hold may
be removed. The event that removes it lists the digests, so that they are not taken for lost.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

from editcli.store.records import CONFIG
from editcli.store.tables import history
from editcli.store.tables.history import Event
from editcli.store.tables.traces import not_made_again

OPERATION = "gc"
REMOVED = "was abandoned, and its content was removed by `editcli gc --abandoned`"
MADE_AGAIN = "`editcli show V --facts` prints its facts, which `editcli apply` takes"
"""An error, and its hint."""


@dataclass(frozen=True, slots=True)
class Abandoned:
    """``versions``: by id, oldest first, those whose content goes; ``blobs``: the digests that only
    they hold."""

    versions: tuple[str, ...] = ()
    blobs: frozenset[str] = frozenset()


def found(database: sqlite3.Connection, before: datetime) -> Abandoned:
    """What nothing has used since ``before``, a time with its zone: no version in use comes from
    it, it has been neither HEAD nor tagged since, and it is older."""
    events = history.events(database)
    made = {event.version: event for event in events if event.made}
    used = {made[v].seq for v in _with_ancestors(made, _used_since(events, before))}
    rows = database.execute(
        "SELECT event, name, digest FROM record WHERE kind = 'blob' AND digest IS NOT NULL"
    ).fetchall()
    # A configuration may be in force after the version that brought it is left.
    kept = {digest for event, name, digest in rows if event in used or name == CONFIG}
    blobs = {digest for _, _, digest in rows} - kept - listed(database)
    return Abandoned(tuple(_lacking(database, made.values(), blobs)), frozenset(blobs))


def listed(database: sqlite3.Connection) -> set[str]:
    """The digests that were removed, and not made again since."""
    # Such an event makes no version, and the others are few.
    where = "made IS NULL AND instr(line, ?)"
    events = history.events(database, where, (f'"operation": "{OPERATION}"',))
    return not_made_again(database, events)


def removed(database: sqlite3.Connection) -> set[str]:
    """Those of the digests that were removed which no version in use needs; that they are missing
    is no damage."""
    digests = listed(database)
    if not digests:
        return set()
    events = history.events(database)
    made = {event.version: event for event in events if event.made}
    names = {events[-1].head, *history.tags(database).values()}
    used = {made[version].seq for version in _with_ancestors(made, names)}
    return {digest for digest in digests if used.isdisjoint(_events_with(database, digest))}


def removed_versions(database: sqlite3.Connection) -> list[str]:
    """The ids of the versions that lack something that was removed, or come from one that does."""
    digests = removed(database)
    return (
        _lacking(database, history.events(database, "made IS NOT NULL"), digests) if digests else []
    )


def _lacking(
    database: sqlite3.Connection, made: Iterable[Event], digests: Collection[str]
) -> list[str]:
    """The versions that brought one of ``digests``, and those that come from them, oldest first."""
    touched = {event for digest in digests for event in _events_with(database, digest)}
    lacking: dict[str, None] = {}
    for event in made:
        if event.seq in touched or event.parent in lacking:
            lacking[event.version] = None
    return [*lacking]


def _events_with(database: sqlite3.Connection, digest: str) -> set[int]:
    rows = database.execute(
        "SELECT event FROM record WHERE kind = 'blob' AND digest = ?", (digest,)
    )
    return {event for (event,) in rows}


def _used_since(events: Iterable[Event], before: datetime) -> set[str]:
    """The versions that were made, HEAD or tagged after ``before``, or are it at that time."""
    head, tags, used = "", dict[str, str](), set[str]()
    for event, following in pairwise([*events, None]):
        assert event is not None  # only the last one is
        head = event.head
        if event.tag:
            tags[event.tag] = event.version
        if following is None or _time(following) > before:
            used |= {head, *tags.values()}
        if event.made and _time(event) > before:
            used.add(event.version)
    return used - {""}


def _time(event: Event) -> datetime:
    moment = datetime.fromisoformat(event.at)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _with_ancestors(made: Mapping[str, Event], versions: Iterable[str]) -> set[str]:
    found = set[str]()
    for version in versions:
        while version and version not in found:
            found.add(version)
            version = made[version].parent
    return found
