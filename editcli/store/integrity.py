"""Is a store as it was written? Checks every hash and every link."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from editcli.store import configuration, signatures
from editcli.store.files import atomic
from editcli.store.files.digests import Digests
from editcli.store.files.layout import Layout
from editcli.store.records import CONFIG, DIGEST, version_id
from editcli.store.tables import abandoned, database
from editcli.store.tables.contents import read_blob, read_fact, read_told
from editcli.store.tables.history import GENESIS, Event, number_of, read_row
from editcli.store.tables.recorder import leaf_of
from editcli.store.tables.traces import purged_blobs
from editors import EditorError

TEXTS = ("fact", "note", "scores")
"""The kinds of records that may be purged."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding: `what` is the file or model at fault, `detail` says what is wrong with it."""

    what: str
    detail: str


def verify(layout: Layout, digests: Digests, *, full: bool) -> Iterator[Problem]:
    """Everything that is wrong with the store; nothing where it is sound.

    What a killed process leaves is no problem: temporary files, and blobs that no version has. The
    hash of the last line of the history vouches for everything. ``digests``: of blobs. With
    ``full``, every fact is read, too, which takes long where there are a million; one that has its
    hash and cannot be read is in a forged store only. Raises OSError when the store cannot be read.
    """
    made: list[Event] = []
    try:
        with database.reading(layout.database) as base:
            for (text,) in base.execute("PRAGMA integrity_check").fetchall():
                if text != "ok":
                    yield Problem("store.db", text)
            events, problems = _chain(base)
            made = [event for event in events.values() if event.made]
            yield from problems
            yield from _record_problems(base, events, full)
            yield from _blob_problems(base, events, layout.blobs, digests)
            found = atomic.read(layout.config) or b""
            for text in signatures.problems(base, configuration.signer(layout, base, found)):
                yield Problem("store.db", text)
            with suppress(EditorError):  # of the last line, which is named by now
                for text in [*configuration.changed_keys(layout, base, found)]:
                    yield Problem(CONFIG, text)
    except EditorError as error:
        yield Problem("store.db", error.message)
    else:
        if not made:
            yield Problem("store.db", "the history holds no version")


def _chain(base: sqlite3.Connection) -> tuple[dict[int, Event], list[Problem]]:
    """The events by the numbers of their lines, and what is wrong with their chain."""
    events: dict[int, Event] = {}
    problems: list[str] = []
    previous, head, versions = GENESIS, "", 0
    for number, row in enumerate(base.execute("SELECT * FROM event ORDER BY seq"), start=1):
        try:
            event = read_row(*row)
        except EditorError as error:
            problems.append(error.message)
            previous = row[-1]
            continue
        if event.previous != previous:
            problems.append(f"line {number} of the history does not carry the hash of the last")
        if event.seq != number:
            problems.append(f"line {number} of the history says that it is line {event.seq}")
        if event.made:
            versions += 1
            if event.version != version_id(versions) or event.head not in (event.version, head):
                problems.append(f"line {number} of the history makes {event.version} out of order")
            if event.parent != head:
                problems.append(f"{event.version} has the parent {event.parent!r}, not {head!r}")
        elif any(v and number_of(v) > versions for v in (event.version, event.head)):
            problems.append(f"line {number} of the history names a version that is not there")
        previous, head = row[-1], event.head
        events[event.seq] = event
    return events, [Problem("store.db", text) for text in problems]


def _record_problems(
    base: sqlite3.Connection, events: Mapping[int, Event], full: bool
) -> Iterator[Problem]:
    """What is wrong with the records."""
    licensed = {leaf for event in events.values() for leaf in event.purged}
    contents = {seq: sha256() for seq in events}
    notes = dict.fromkeys(events, 0)
    kinds: list[str] = [""]  # by key
    seq = 0
    rows = base.execute(
        "SELECT key, event, kind, leaf, entry, other, name, digest, salt, body FROM record "
        "ORDER BY key"
    )
    for key, event, kind, leaf, entry, other, name, digest, salt, body in rows:
        # Records stand in the order of the events, and their keys leave none out.
        if key != len(kinds) or event < seq or event not in events:
            yield Problem("store.db", f"record {key} belongs to no line of the history")
            return
        seq = event
        contents[seq].update(leaf)
        notes[seq] += kind == "note"
        kinds.append(kind)
        whole = leaf_of(kind, name, digest, salt, body, entry, other) == leaf
        if whole and kind == "fact" and body is not None and not full:
            continue  # nearly all records, so all else costs little
        if detail := _fault(kinds, licensed, whole, leaf, entry, other, name, digest, salt, body):
            yield Problem("store.db", f"{kind} record {key} {detail}")
    for seq, event in events.items():
        if contents[seq].hexdigest() != event.content or notes[seq] != 1:
            what = event.version if event.made else f"line {seq}"
            yield Problem("store.db", f"the records of {what} are not those that the history lists")


def _fault(
    kinds: Sequence[str],
    licensed: Collection[str],
    whole: bool,
    leaf: bytes,
    entry: int | None,
    other: int | None,
    name: str | None,
    digest: str | None,
    salt: str | None,
    body: str | None,
) -> str:
    """What is wrong with the last record, of the last of ``kinds``; empty where nothing is.
    ``whole``: it has its leaf."""
    kind = kinds[-1]

    def names(key: int | None, *wanted: str) -> bool:
        return key is not None and 0 < key < len(kinds) - 1 and kinds[key] in wanted

    if kind in TEXTS and body is None:
        if leaf.hex() not in licensed:
            return "is empty, and was not purged"
        left = {entry, other, name, digest, salt} - {None}
        return "is not empty, though it was purged" if left else ""
    if not whole:
        return "is damaged"
    try:
        if kind == "fact":
            read_fact(name, salt, body, leaf)
        elif kind == "blob":
            blob = read_blob(name, digest, body, leaf)
            groups = blob.made_from if blob else ()
            if not all(names(key, "fact") for group in groups for key in group):
                return "was made from something else than facts"
        elif kind == "again":
            return "" if names(other, "fact") else "brings back no fact"
        elif kind == "close":
            by = other is None or names(other, "fact", "again")
            return "" if names(entry, "fact", "again") and by else "ends no fact"
        elif kind in TEXTS:
            read_told(kind, salt, body, leaf)
        else:
            return "is of no kind that there is"
    except EditorError as error:
        return error.message
    return ""


def _blob_problems(
    base: sqlite3.Connection, events: Mapping[int, Event], folder: Path, digests: Digests
) -> Iterator[Problem]:
    rows = base.execute(
        "SELECT digest, name, min(event) FROM record WHERE kind = 'blob' AND digest IS NOT NULL "
        "GROUP BY digest"
    )
    users = {
        digest: f" ({name!r} of {events[seq].version} and maybe later)"
        for digest, name, seq in rows
        if seq in events
    }
    removed = purged_blobs(base) | abandoned.removed(base)
    listed = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    listed = [name for name in listed if not name.startswith(atomic.TEMP_PREFIX)]
    for digest in sorted({*users, *listed}):
        used = users.get(digest, "")
        if not DIGEST.fullmatch(digest):
            yield Problem(f"blobs/{digest}", f"is not a blob{used}")
            continue
        try:
            actual = digests.of(folder / digest)
        except FileNotFoundError:
            if used and digest not in removed:  # else removed between listing and reading
                yield Problem(f"blobs/{digest}", f"is missing{used}")
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            yield Problem(f"blobs/{digest}", f"cannot be read: {reason}{used}")
        else:
            if actual != digest:
                yield Problem(f"blobs/{digest}", f"is damaged: its hash is {actual[:12]}{used}")
