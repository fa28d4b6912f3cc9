"""Is a store as it was written? Checks every hash and every link."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from editcli.store import atomic, database
from editcli.store.digests import Digests
from editcli.store.history import GENESIS, Event, line_digest, number_of
from editcli.store.layout import Layout
from editcli.store.recorder import leaf_of
from editcli.store.records import DIGEST, NAME, version_id
from editors import EditorError

TEXTS = ("fact", "note", "scores")
"""The kinds of records that may be purged."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding: `what` is the file or model at fault, `detail` says what is wrong with it."""

    what: str
    detail: str


def verify(layout: Layout, digests: Digests) -> Iterator[Problem]:
    """Everything that is wrong with the store; nothing where it is sound.

    What a killed process leaves is no problem: temporary files, and blobs that no version has. The
    hash of the last line of the history vouches for everything. ``digests``: of blobs. Raises
    OSError when the store cannot be read.

    """
    try:
        with database.reading(layout.database) as base:
            events, problems = _chain(base)
            yield from problems
            licensed = {leaf for event in events for leaf in event.purged}
            yield from _record_problems(base, events, licensed)
            yield from _blob_problems(base, layout.blobs, licensed, digests)

    except EditorError as error:
        yield Problem("store.db", error.message)
        return
    made = [event for event in events if event.made]
    if not made:
        yield Problem("store.db", "the history holds no version")
    elif sha256(atomic.read(layout.config) or b"").hexdigest() != made[-1].config:
        yield Problem("config.toml", f"does not have the hash that {made[-1].version} records")


def _chain(base: sqlite3.Connection) -> tuple[list[Event], list[Problem]]:
    """The events, and what is wrong with their chain."""
    events: list[Event] = []
    problems: list[str] = []
    previous, head = GENESIS, ""
    rows = base.execute("SELECT seq, made, parent, tag, line FROM event ORDER BY seq")
    versions = 0
    for number, (*columns, line) in enumerate(rows, start=1):
        try:
            event = Event.from_line(line)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"line {number} of the history cannot be read: {error}")
            previous = line_digest(line.encode())
            continue
        if event.previous != previous:
            problems.append(f"line {number} of the history does not carry the hash of the last")
        if event.seq != number or event.columns() != tuple(columns):
            problems.append(f"line {number} of the history is not what its row says")
        if event.made:
            versions += 1
            if event.version != version_id(versions) or event.head not in (event.version, head):
                problems.append(f"line {number} of the history makes {event.version} out of order")
            if event.parent != head:
                problems.append(f"{event.version} has the parent {event.parent!r}, not {head!r}")
        elif any(v and number_of(v) > versions for v in (event.version, event.head)):
            problems.append(f"line {number} of the history names a version that is not there")
        previous, head = line_digest(line.encode()), event.head
        events.append(event)
    return events, [Problem("store.db", text) for text in problems]


def _record_problems(
    base: sqlite3.Connection, events: list[Event], licensed: set[str]
) -> Iterator[Problem]:
    """What is wrong with the records; ``licensed``: the leaves of those that were purged."""
    by_seq = {event.seq: event for event in events}
    content, current = sha256(), 0
    leaves = base.cursor()

    def leaf(key: int | None, kinds: tuple[str, ...]) -> bytes:
        if key is None:
            return b""
        row = leaves.execute("SELECT kind, leaf FROM record WHERE key = ?", (key,)).fetchone()
        return bytes(row[1]) if row and row[0] in kinds else b"-"

    def ended() -> Iterator[Problem]:
        if current and content.hexdigest() != by_seq[current].content:
            what = by_seq[current].version or f"line {current}"
            yield Problem("store.db", f"the records of {what} are not those that the history lists")

    rows = base.execute(
        "SELECT key, event, kind, leaf, entry, other, name, digest, salt, body FROM record "
        "ORDER BY key"
    )
    for key, seq, kind, recorded, entry, other, name, digest, salt, body in rows:
        if seq != current:
            yield from ended()
            # Records stand in the order of the events, and each event has some.
            for missing in range(current + 1, seq):
                yield Problem("store.db", f"line {missing} of the history has no records")
            if seq not in by_seq or seq < current:
                yield Problem("store.db", f"record {key} belongs to no line of the history")
                return
            content, current = sha256(), seq
        content.update(recorded)
        if kind in TEXTS and body is None:
            if recorded.hex() not in licensed:
                yield Problem("store.db", f"{kind} record {key} is empty, and was not purged")
            continue
        targets = ("fact", "again") if kind == "close" else ("fact",)
        expected = leaf_of(
            kind, name, digest, salt, body, leaf(entry, ("fact", "again")), leaf(other, targets)
        )
        if expected != recorded or not _is_sound(kind, name, digest, body):
            yield Problem("store.db", f"{kind} record {key} is damaged")
    yield from ended()
    for missing in range(current + 1, len(events) + 1):
        yield Problem("store.db", f"line {missing} of the history has no records")


def _is_sound(kind: str, name: str | None, digest: str | None, body: str | None) -> bool:
    """Whether the content of a record can be read."""
    try:
        if kind == "fact":
            return (body or "").startswith(f'{{"id": "{name}"')
        if kind == "blob":
            return bool(NAME.fullmatch(name or "")) and bool(DIGEST.fullmatch(digest or "0" * 64))
        return kind in ("again", "close") or isinstance(json.loads(body or ""), dict)
    except ValueError:
        return False


def _blob_problems(
    base: sqlite3.Connection, folder: Path, licensed: set[str], digests: Digests
) -> Iterator[Problem]:
    rows = base.execute(
        "SELECT r.digest, r.name, min(e.seq), e.line FROM record AS r JOIN event AS e "
        "ON e.seq = r.event WHERE r.kind = 'blob' AND r.digest IS NOT NULL GROUP BY r.digest"
    )
    users = {
        digest: f" ({name!r} of {Event.from_line(line).version} and maybe later)"
        for digest, name, _, line in rows
    }
    listed = {p.name for p in folder.iterdir() if not p.name.startswith(atomic.TEMP_PREFIX)}
    for digest in sorted(users.keys() | listed):
        used = users.get(digest, "")
        if not DIGEST.fullmatch(digest):
            yield Problem(f"blobs/{digest}", f"is not a blob{used}")
            continue
        path = folder / digest
        if path.is_symlink():
            yield Problem(f"blobs/{digest}", f"is a link{used}")
            continue
        try:
            actual = digests.of(path)
        except FileNotFoundError:
            if used and digest not in licensed:  # else removed between listing and reading
                yield Problem(f"blobs/{digest}", f"is missing{used}")
            continue
        if actual != digest:
            yield Problem(f"blobs/{digest}", f"is damaged: its hash is {actual[:12]}{used}")
