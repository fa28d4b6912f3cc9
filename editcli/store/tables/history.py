"""The history: one line of JSON for each change of a store, chained by SHA-256.

Each line carries the hash of the line before it, so the hash of the last one vouches for all. A
line has no text of facts and no message: these are records, and the line carries the hash of their
leaves (`content`), which stays the same when a record is purged.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from hashlib import sha256
from typing import Any, Literal

from editcli.store.records import DIGEST, VERSION_ID, Version, from_json, is_tag, json_bytes
from editcli.store.tables.database import DAMAGED
from editors import EditorError

GENESIS = "0" * 64
"""What the first line has in place of the hash of the line before."""

CHANGES = ("added", "removed", "superseded")
_TYPES = {"seq": int, "made": bool, "changes": dict, "purged": list}  # all others are texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the history.

    ``seq`` counts from 1, ``at`` is UTC in ISO 8601, ``who`` is the author. ``version`` is the
    version that the operation made or points at (empty: a tag was deleted), ``head`` the current
    version afterwards. ``made``: whether it made the version, then with the parent ``parent``
    (empty for the first) under a configuration whose SHA-256 is ``config``. ``tag``: the name that
    it gave or deleted. ``changes`` counts the facts that were added, removed and superseded.
    ``content``: the SHA-256 of the leaves of its records. ``purged``: the leaves that it emptied,
    and the digests of the blobs that it removed. ``previous``: the hash of the line before. An
    event has its ``seq`` and ``previous`` from the chain that it is appended to.
    """

    seq: int = 0
    at: str
    who: str
    operation: str
    version: str
    head: str
    made: bool = False
    parent: str = ""
    config: str = ""
    tag: str = ""
    changes: Mapping[str, int] = field(default_factory=dict)
    content: str = ""
    purged: Sequence[str] = ()
    previous: str = GENESIS

    def to_line(self) -> bytes:
        """The line, without a newline. Raises EditorError for text that is not Unicode."""
        return json_bytes(asdict(self))

    @classmethod
    def from_line(cls, line: str | bytes) -> Event:
        """Read a line. Raises ValueError, KeyError or TypeError; ids and tags are checked."""
        event = cls(**from_json(line))
        for field_ in fields(cls):
            if type(getattr(event, field_.name)) is not _TYPES.get(field_.name, str):
                raise ValueError(f"{field_.name} has the wrong type")
        if event.made and not event.version:
            raise ValueError("it makes a version without a name")
        datetime.fromisoformat(event.at)
        for name in (event.head, *filter(None, (event.version, event.parent))):
            if not VERSION_ID.fullmatch(name):
                raise ValueError(f"{name!r} is not the id of a version")
        if event.tag and not is_tag(event.tag):
            raise ValueError("not a tag")
        if not all(DIGEST.fullmatch(text) for text in (event.content, *event.purged)):
            raise ValueError("not a digest")
        counted = event.changes.values()
        if set(event.changes) != ({*CHANGES} if event.made else set()) or not all(
            type(count) is int and count >= 0 for count in counted
        ):
            raise ValueError("not counts of facts")
        return event

    def columns(self) -> tuple[int, int | None, int | None, str | None]:
        """What stands beside the line in the database: seq, made, parent, tag."""
        made = number_of(self.version) if self.made else None
        parent = number_of(self.parent) if self.parent else None
        return self.seq, made, parent, self.tag or None


def number_of(version: str) -> int:
    """The number of a version: 3 for v0003."""
    return int(version[1:])


def line_digest(line: bytes) -> str:
    """The hash of a line without its newline."""
    return sha256(line).hexdigest()


def read_row(
    seq: int, made: int | None, parent: int | None, tag: str | None, line: str, digest: str
) -> Event:
    """The event of a row of the table. Raises EditorError where anything of it is damaged."""
    try:
        event = Event.from_line(line)
        if line_digest(line.encode()) != digest:
            raise ValueError("it does not have its hash")
        if event.columns() != (seq, made, parent, tag):
            raise ValueError("its row says something else")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EditorError(f"line {seq} of the history cannot be read: {error}", DAMAGED) from error
    return event


def version_of(event: Event, note: Mapping[str, Any]) -> Version:
    """The version that ``event`` made; ``note``: what is told about it, empty if it was purged."""
    return Version(
        number=number_of(event.version),
        parent=event.parent,
        operation=event.operation,
        changes=event.changes,
        at=event.at,
        who=event.who,
        config=event.config,
        **note,
    )


def events(
    database: sqlite3.Connection, where: str = "", values: Sequence[Any] = ()
) -> list[Event]:
    """The events that fulfil ``where``, a condition on the table, oldest first."""
    clause = f" WHERE {where}" if where else ""
    rows = database.execute(f"SELECT * FROM event{clause} ORDER BY seq", values)
    return [read_row(*row) for row in rows]


def numbered_events(database: sqlite3.Connection, numbers: Collection[int]) -> dict[int, Event]:
    """The events with these numbers, by number."""
    where = "seq IN (SELECT value FROM json_each(?))"
    return {event.seq: event for event in events(database, where, (json.dumps(sorted(numbers)),))}


def newest_events(database: sqlite3.Connection, before: int, count: int) -> list[Event]:
    """The newest ``count`` events before the one numbered ``before`` (0: all), newest first."""
    where = "seq IN (SELECT seq FROM event WHERE ?1 = 0 OR seq < ?1 ORDER BY seq DESC LIMIT ?2)"
    return events(database, where, (before, count))[::-1]


def last_event(database: sqlite3.Connection) -> Event:
    """The newest event. Raises EditorError where there is none."""
    found = events(database, "seq = (SELECT max(seq) FROM event)")
    if not found:
        raise EditorError("the history holds no version", DAMAGED)
    return found[0]


def tip(database: sqlite3.Connection) -> str:
    """The hash of the last line."""
    row = database.execute("SELECT hash FROM event ORDER BY seq DESC LIMIT 1").fetchone()
    return str(row[0]) if row else GENESIS


def append(database: sqlite3.Connection, event: Event) -> Event:
    """Add ``event`` at the end of the chain; returns it with its number and its link."""
    last = database.execute("SELECT seq, hash FROM event ORDER BY seq DESC LIMIT 1").fetchone()
    seq, previous = (last[0] + 1, last[1]) if last else (1, GENESIS)
    event = replace(event, seq=seq, previous=previous)
    line = event.to_line()
    row = (*event.columns(), line.decode(), line_digest(line))
    database.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?)", row)
    return read_row(*row)


def tags(database: sqlite3.Connection) -> dict[str, str]:
    """The tags by name, with the ids of their versions."""
    named = {event.tag: event.version for event in events(database, "tag IS NOT NULL")}
    return {tag: named[tag] for tag in sorted(named) if named[tag]}


def newest(database: sqlite3.Connection) -> int:
    """The number of the newest version; 0 if there is none."""
    return int(database.execute("SELECT ifnull(max(made), 0) FROM event").fetchone()[0])


def checks(database: sqlite3.Connection, version: str = "") -> list[int]:
    """The numbers of the events that recorded scores, of one version or of any, oldest first."""
    rows = database.execute(
        "SELECT seq FROM event WHERE made IS NULL AND json_extract(line, '$.operation') = 'check' "
        "AND (?1 = '' OR json_extract(line, '$.version') = ?1) ORDER BY seq",
        (version,),
    )
    return [seq for (seq,) in rows]


def publishing(database: sqlite3.Connection, number: int) -> Event | None:
    """The event that made the version with that ``number``."""
    found = events(database, "made = ?", (number,))
    return found[0] if found else None


_ANCESTRY = """
WITH RECURSIVE up (seq, made, parent) AS (
  SELECT seq, made, parent FROM event WHERE made = ?
  UNION ALL
  SELECT e.seq, e.made, e.parent FROM event AS e JOIN up ON e.made = up.parent
  WHERE up.parent < up.made
)
"""
"""A version and its ancestors. A parent is older than its child, so that no circle is followed."""


def ancestry(database: sqlite3.Connection, number: int) -> list[Event]:
    """The events that made a version and its ancestors, newest first."""
    rows = database.execute(
        f"{_ANCESTRY} SELECT e.* FROM event AS e JOIN up ON up.seq = e.seq ORDER BY e.seq DESC",
        (number,),
    )
    return [read_row(*row) for row in rows]


def count_facts(database: sqlite3.Connection, number: int) -> int:
    """The number of facts in force at a version, by what the events say that made it and its
    ancestors."""
    counted = " ".join(
        f"{sign} json_extract(e.line, '$.changes.{kind}')"
        for kind, sign in zip(CHANGES, "+--", strict=True)
    )
    rows = database.execute(
        f"{_ANCESTRY} SELECT sum({counted}) FROM event AS e JOIN up ON up.seq = e.seq", (number,)
    )
    return int(rows.fetchone()[0] or 0)


def ancestor(database: sqlite3.Connection, number: int, steps: int) -> int | None:
    """The number of the version ``steps`` before another; None if it is beyond the first."""
    rows = database.execute(
        f"{_ANCESTRY} SELECT made FROM up ORDER BY made DESC LIMIT 1 OFFSET ?", (number, steps)
    )
    found = rows.fetchone()
    return None if found is None else int(found[0])


def mark_line(
    database: sqlite3.Connection, number: int, name: Literal["line", "other_line"] = "line"
) -> None:
    """Fill a table of this connection with the events that made a version and its ancestors."""
    database.execute(f"CREATE TEMP TABLE IF NOT EXISTS {name} (event INTEGER PRIMARY KEY)")
    database.execute(f"DELETE FROM {name}")
    database.execute(f"{_ANCESTRY.strip()} INSERT INTO {name} SELECT seq FROM up", (number,))
