"""What versions hold: facts in force, and blobs. Reads and writes the table `record`.

A record has a `kind`:

- fact: the text of a fact (`body`), under its id (`name`); it is in force from here on.
- again: a fact whose text is in an earlier record (`other`) is in force from here on.
- close: what `entry`, a record of the kinds above, brought in force is so no longer; `other` is the
  record of the fact in its place.
- blob: the blob called `name` has this `digest` from here on, or is gone without one; `body` are
  the records of the facts that it was made from, group by group.
- note: what is told about the event.
- scores: what a check of the version measured.

A fact, a note and scores have a `salt`, so that no text can be guessed from a leaf.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from editcli.store.records import CONFIG, DIGEST, NAME, from_json
from editcli.store.tables.database import DAMAGED
from editcli.store.tables.recorder import leaf_of
from editors import EditorError, Fact, FactClosure, InvalidFact

Kind = Literal["added", "removed", "superseded"]

_NOTE = {"message": str, "tools": dict, "extra": dict}

PAGE = 10_000  # rows that are read at once

_NOT_CLOSED = """NOT EXISTS (
  SELECT 1 FROM record AS c WHERE c.entry = r.key AND c.kind = 'close' AND c.event IN line
)"""
_IN_FORCE = f"""
FROM record AS r JOIN record AS f ON f.key = ifnull(r.other, r.key)
WHERE r.kind IN ('fact', 'again') AND +r.event IN line AND {_NOT_CLOSED}
"""
"""The facts in force along `line`: `r` brought a fact in force, and `f` has its text."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A fact in force: the record that brought it in force (``key``), the record with its text
    (``text``), its event, and the fact itself, None if it was purged."""

    key: int
    text: int
    event: int
    fact: Fact | None


@dataclass(frozen=True, slots=True)
class Change:
    """What an event did to a ``fact`` (None: purged since). ``by``: the id of the fact in its
    place."""

    kind: Kind
    fact: Fact | None
    by: str | None = None


@dataclass(frozen=True, slots=True)
class Blob:
    """A named blob of a version: the SHA-256 of its bytes, and as JSON what :attr:`made_from`
    reads; empty for a blob that was made from no fact."""

    digest: str
    groups: str = ""

    @property
    def made_from(self) -> tuple[tuple[int, ...], ...]:
        """The facts that it was made from, group by group, by the records with their texts. Raises
        EditorError where this is damaged."""
        try:
            groups = tuple(map(tuple, from_json(self.groups))) if self.groups else ()
        except (ValueError, TypeError) as error:
            raise EditorError(f"the facts of a blob cannot be read: {error}", DAMAGED) from error
        if not all(type(key) is int for group in groups for key in group):
            raise EditorError("a blob was made from something else than facts", DAMAGED)
        return groups


def in_force(database: sqlite3.Connection, after: int = 0, limit: int = -1) -> list[Entry]:
    """The facts in force along the marked line, in the order in which they were entered: those
    after the record ``after``, at most ``limit``. Raises EditorError where a text is damaged."""
    rows = database.execute(
        f"SELECT r.key, f.key, r.event, f.name, f.salt, f.body, f.leaf {_IN_FORCE} AND r.key > ?"
        " ORDER BY r.key LIMIT ?",
        (after, limit),
    )
    return [Entry(key, text, event, read_fact(*row)) for key, text, event, *row in rows]


def entries_of(database: sqlite3.Connection, fact: str) -> list[Entry]:
    """The entry in force along the marked line of the fact with this id; none, or one."""
    # From the text to what brought it in force, so that few rows are read.
    rows = database.execute(
        f"""
        WITH texts AS (SELECT key FROM record WHERE kind = 'fact' AND name = ?),
        entries AS (
          SELECT key FROM texts UNION ALL
          SELECT a.key FROM texts CROSS JOIN record AS a ON a.other = texts.key AND a.kind = 'again'
        )
        SELECT r.key, f.key, r.event, f.name, f.salt, f.body, f.leaf
        FROM entries CROSS JOIN record AS r ON r.key = entries.key
        CROSS JOIN record AS f ON f.key = ifnull(r.other, r.key)
        WHERE r.event IN line AND {_NOT_CLOSED}
        """,
        (fact,),
    )
    return [Entry(key, text, event, read_fact(*row)) for key, text, event, *row in rows]


def ids_beginning(database: sqlite3.Connection, prefix: str, limit: int) -> list[str]:
    """The ids of facts, in force or not, that begin with ``prefix``, at most ``limit``."""
    rows = database.execute(
        "SELECT DISTINCT name FROM record WHERE kind = 'fact' AND name >= ? AND name < ? "
        "ORDER BY name LIMIT ?",
        (prefix, prefix + "\U0010ffff", limit),
    )
    return [name for (name,) in rows]


def texts(database: sqlite3.Connection, keys: Iterable[int]) -> dict[int, Fact | None]:
    """The facts whose texts are in these records, None for one that was purged. Raises EditorError
    where there is no such record."""
    found = {}
    for key in keys:
        row = database.execute(
            "SELECT name, salt, body, leaf FROM record WHERE key = ? AND kind = 'fact'", (key,)
        ).fetchone()
        if row is None:
            raise EditorError(f"record {key} is not the text of a fact", DAMAGED)
        found[key] = read_fact(*row)
    return found


def closures(database: sqlite3.Connection, fact: str) -> list[tuple[int, FactClosure]]:
    """The closures along the marked line of a fact (an id), oldest first, each with its event."""
    rows = database.execute(
        """
        WITH texts AS (SELECT key FROM record WHERE kind = 'fact' AND name = ?),
        entries AS (SELECT key FROM texts UNION SELECT r.key FROM texts JOIN record AS r
          ON r.other = texts.key AND r.kind = 'again')
        SELECT c.event, c.other, f.name FROM entries JOIN record AS c ON c.entry = entries.key
        LEFT JOIN record AS o ON o.key = c.other
        LEFT JOIN record AS f ON f.key = ifnull(o.other, o.key)
        WHERE c.kind = 'close' AND c.event IN line ORDER BY c.key
        """,
        (fact,),
    )
    return [
        (event, FactClosure("superseded" if other else "undone", by)) for event, other, by in rows
    ]


def stored(database: sqlite3.Connection, facts: Iterable[str]) -> set[str]:
    """Those of ``facts`` (ids) whose text is stored, in whatever version."""
    found = "SELECT 1 FROM record WHERE kind = 'fact' AND name = ? LIMIT 1"
    return {fact for fact in facts if database.execute(found, (fact,)).fetchone()}


def newest_text(database: sqlite3.Connection, fact: str) -> int | None:
    """The newest record along the marked line with the text of a fact (an id)."""
    row = database.execute(
        "SELECT max(key) FROM record WHERE kind = 'fact' AND name = ? AND event IN line", (fact,)
    ).fetchone()
    return None if row[0] is None else int(row[0])


def changes_by(database: sqlite3.Connection, event: int, limit: int = -1) -> list[Change]:
    """What an event did to facts, in order, at most ``limit`` of it. A fact that was superseded by
    the event that brought it in force is left out."""
    rows = database.execute(
        """
        SELECT r.kind, t.name, t.salt, t.body, t.leaf, r.other, b.name
        FROM record AS r
        LEFT JOIN record AS e ON e.key = r.entry
        JOIN record AS t ON t.key = coalesce(e.other, r.entry, r.other, r.key)
        LEFT JOIN record AS o ON r.kind = 'close' AND o.key = r.other
        LEFT JOIN record AS b ON b.key = ifnull(o.other, o.key)
        WHERE r.event = ?1 AND r.kind IN ('fact', 'again', 'close') AND ifnull(e.event, 0) < ?1
        AND NOT EXISTS (SELECT 1 FROM record AS c WHERE c.entry = r.key AND c.event = ?1)
        ORDER BY r.key LIMIT ?2
        """,
        (event, limit),
    )
    changes = []
    for kind, *text, other, by in rows:
        ended: Kind = "superseded" if other else "removed"
        changes.append(Change(ended if kind == "close" else "added", read_fact(*text), by))
    return changes


def events_about(database: sqlite3.Connection, fact: str) -> set[int]:
    """The events that brought a fact (an id) in force, or ended that."""
    rows = database.execute(
        """
        WITH texts AS (SELECT key FROM record WHERE kind = 'fact' AND name = ?),
        entries AS (SELECT key FROM texts UNION SELECT r.key FROM texts JOIN record AS r
          ON r.other = texts.key AND r.kind = 'again')
        SELECT event FROM record WHERE key IN entries OR entry IN entries
        """,
        (fact,),
    )
    return {event for (event,) in rows}


def differing(database: sqlite3.Connection) -> tuple[list[Entry], list[Entry]]:
    """The facts in force along the table ``line`` alone, and along ``other_line`` alone."""
    rows = database.execute(
        """
        WITH apart AS (
          SELECT event FROM line WHERE event NOT IN other_line
          UNION ALL SELECT event FROM other_line WHERE event NOT IN line
        ), touched AS (
          SELECT key FROM record WHERE event IN apart AND kind IN ('fact', 'again')
          UNION SELECT entry FROM record WHERE event IN apart AND kind = 'close'
        )
        SELECT r.key, f.key, r.event, f.name, f.salt, f.body, f.leaf,
          r.event IN line AND NOT EXISTS (
            SELECT 1 FROM record AS c WHERE c.entry = r.key AND c.event IN line),
          r.event IN other_line AND NOT EXISTS (
            SELECT 1 FROM record AS c WHERE c.entry = r.key AND c.event IN other_line)
        FROM touched JOIN record AS r ON r.key = touched.key
        JOIN record AS f ON f.key = ifnull(r.other, r.key) ORDER BY r.key
        """
    )
    alone: tuple[list[Entry], list[Entry]] = [], []
    for key, text, event, *fact, here, there in rows:
        if here != there:
            alone[bool(there)].append(Entry(key, text, event, read_fact(*fact)))
    # A fact that was entered again on one line, or on both, is not alone.
    gone, come = ({entry.fact or entry.text for entry in entries} for entries in alone)
    return (
        [entry for entry in alone[0] if (entry.fact or entry.text) not in come],
        [entry for entry in alone[1] if (entry.fact or entry.text) not in gone],
    )


def blobs(database: sqlite3.Connection) -> dict[str, Blob]:
    """The blobs along the marked line, by name. The configuration is none of them."""
    rows = database.execute(
        "SELECT name, digest, body, leaf, max(key) FROM record "
        "WHERE kind = 'blob' AND name IS NOT NULL AND name != ? AND event IN line "
        "GROUP BY name",
        (CONFIG,),
    )
    read = {name: read_blob(name, *row) for name, *row, _ in rows}
    return {name: blob for name, blob in read.items() if blob}


def events_changing(database: sqlite3.Connection, name: str) -> set[int]:
    """The events that brought the blob called ``name``, or took it away."""
    rows = database.execute("SELECT event FROM record WHERE kind = 'blob' AND name = ?", (name,))
    return {event for (event,) in rows}


def has_blob(database: sqlite3.Connection, name: str) -> bool:
    """Whether there is a blob of this name along the marked line."""
    row = database.execute(
        "SELECT digest FROM record WHERE kind = 'blob' AND name = ? AND event IN line "
        "ORDER BY key DESC LIMIT 1",
        (name,),
    ).fetchone()
    return row is not None and row[0] is not None


def all_digests(database: sqlite3.Connection) -> set[str]:
    """The digests of all blobs, of whatever version."""
    rows = database.execute("SELECT DISTINCT digest FROM record WHERE digest IS NOT NULL")
    return {digest for (digest,) in rows}


def notes(database: sqlite3.Connection, events: Collection[int]) -> dict[int, dict[str, Any]]:
    """What is told about these events, by their numbers; empty for a note that was purged. Raises
    EditorError where one is damaged or missing."""
    found = _told(database, "note", events)
    for number in events:
        if number not in found:
            raise EditorError(f"the note of line {number} of the history is missing", DAMAGED)
    return found


def scores(database: sqlite3.Connection, events: Collection[int]) -> dict[int, dict[str, Any]]:
    """What the checks measured that are among these events, by their numbers; those that were
    purged are left out. Raises EditorError where some are damaged."""
    found = _told(database, "scores", events)
    return {number: told for number, told in found.items() if told}


def _told(
    database: sqlite3.Connection, kind: str, events: Collection[int]
) -> dict[int, dict[str, Any]]:
    rows = database.execute(
        "SELECT event, salt, body, leaf FROM record "
        "WHERE event IN (SELECT value FROM json_each(?)) AND kind = ? ORDER BY key",
        (json.dumps(sorted(events)), kind),
    )
    found = {}
    for number, *row in rows:
        try:
            found[number] = read_told(kind, *row)
        except EditorError as error:
            what = f"the {kind} of line {number} of the history"
            raise EditorError(f"{what} {error.message}", DAMAGED) from error
    return found


def read_told(kind: str, salt: str | None, body: str | None, leaf: bytes) -> dict[str, Any]:
    """What a note or scores tell; empty if purged. Raises EditorError where they are damaged."""
    if body is None:
        return {}
    try:
        _require_leaf(leaf, kind, None, None, salt, body)
        told = from_json(body)
        types = {key: type(value) for key, value in told.items()}
        if kind == "note" and types != _NOTE:
            raise ValueError("it has other keys or values")
    except (ValueError, AttributeError) as error:
        raise EditorError(f"cannot be read: {error}") from error
    return dict(told)


def read_fact(name: str | None, salt: str | None, body: str | None, leaf: bytes) -> Fact | None:
    """The fact with this text; None if it was purged. Raises EditorError where it is damaged."""
    if body is None:
        return None
    try:
        _require_leaf(leaf, "fact", name, None, salt, body)
        fact = Fact.from_dict(from_json(body))
        if fact.id != name:
            raise ValueError(f"it is {fact.id}")
    except (ValueError, TypeError, AttributeError, InvalidFact) as error:
        raise EditorError(f"fact {name} cannot be read: {error}", DAMAGED) from error
    return fact


def read_blob(name: str | None, digest: str | None, body: str | None, leaf: bytes) -> Blob | None:
    """The blob with this record; None if the record takes it away. Raises EditorError where it is
    damaged."""
    try:
        _require_leaf(leaf, "blob", name, digest, None, body)
        if not NAME.fullmatch(name or "") or not DIGEST.fullmatch(digest or leaf.hex()):
            raise ValueError("it has a bad name or digest")
    except ValueError as error:
        raise EditorError(f"blob {name!r} cannot be read: {error}", DAMAGED) from error
    return Blob(digest, body or "") if digest else None


def _require_leaf(
    leaf: bytes, kind: str, name: str | None, digest: str | None, salt: str | None, body: str | None
) -> None:
    if leaf_of(kind, name, digest, salt, body) != leaf:
        raise ValueError("it does not have its hash")


def count_purged(database: sqlite3.Connection) -> int:
    """The number of facts that were purged and are in force along the marked line, or that one of
    its blobs was made from."""
    rows = database.execute("SELECT key FROM record WHERE kind = 'fact' AND body IS NULL")
    purged = {key for (key,) in rows}
    if not purged:
        return 0
    rows = database.execute(f"SELECT f.key {_IN_FORCE} AND f.body IS NULL")
    used = {key for (key,) in rows}
    for blob in blobs(database).values():
        used.update(*blob.made_from)
    return len(purged & used)
