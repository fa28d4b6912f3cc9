"""Facts as they are listed: along a line, with what became of each, chosen by what is in them."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from editcli.store.tables.contents import read_fact
from editors import Fact
from editors.text_matching.names import folded_name

State = Literal["in force", "superseded", "undone"]


@dataclass(frozen=True, slots=True)
class Listed:
    """A fact on a line (``fact``; None: purged since). ``key``: the record that brought it in
    force; ``event``: when; ``state``: what became of it, and with ``ended`` in which event;
    ``instead_of``: the fact that it superseded."""

    key: int
    event: int
    fact: Fact | None
    state: State
    ended: int | None = None
    instead_of: Fact | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which facts to list. ``states``: what became of them; ``match``: words of the prompt, the
    target, the subject or another name; ``tags`` and ``source``: those of the fact; ``events``:
    those that brought it in force (None: any)."""

    states: Collection[State] = frozenset[State](["in force"])
    match: str = ""
    tags: Sequence[str] = ()
    source: str = ""
    events: Collection[int] | None = None

    def takes(self, fact: Fact | None) -> bool:
        """Whether the texts of ``fact`` are wanted; of one that was purged (None), if any are."""
        if fact is None:
            return not (self.match or self.source or self.tags)
        sought = folded_name(self.match)
        texts = (fact.prompt, fact.target, fact.subject or "", *fact.aliases)
        if sought and not any(sought in folded_name(text) for text in texts):
            return False
        if self.source and self.source not in (fact.source or ""):
            return False
        return set(self.tags) <= set(fact.tags)

    @property
    def letters(self) -> str:
        """A part of ``match`` that the JSON of every fact holds which is wanted, in lower case."""
        plain: list[str] = re.findall(r"[a-z0-9 ]+", self.match.lower())
        return max(plain, key=len, default="")


def newest_entries(database: sqlite3.Connection, before: int, count: int) -> list[int]:
    """The records along the marked line that brought facts in force, the newest first: ``count`` of
    those before record ``before`` (0: from the newest on)."""
    # The plus sign keeps SQLite from an index, and so from sorting: rows stand in order.
    rows = database.execute(
        "SELECT key FROM record WHERE kind IN ('fact', 'again') AND +event IN line "
        "AND (?1 = 0 OR key < ?1) ORDER BY key DESC LIMIT ?2",
        (before, count),
    )
    return [key for (key,) in rows]


def entries_with(database: sqlite3.Connection, letters: str) -> list[int]:
    """The same for all facts whose text holds ``letters``, of a to z, digits and spaces."""
    rows = database.execute(
        """
        WITH texts AS MATERIALIZED (
          SELECT key FROM record WHERE kind = 'fact' AND body LIKE ?
        ), entries AS (
          SELECT key FROM texts UNION ALL
          SELECT a.key FROM texts CROSS JOIN record AS a ON a.other = texts.key AND a.kind = 'again'
        )
        SELECT r.key FROM entries CROSS JOIN record AS r ON r.key = entries.key
        WHERE r.event IN line ORDER BY r.key DESC
        """,
        (f"%{letters}%",),
    )
    return [key for (key,) in rows]


def listed(database: sqlite3.Connection, entries: Sequence[int], wanted: Wanted) -> list[Listed]:
    """What is told of the facts that ``entries`` brought in force, as far as they are wanted."""
    rows = database.execute(
        """
        SELECT r.key, r.event, c.event, c.other, f.name, f.salt, f.body, f.leaf
        FROM json_each(?) AS chosen CROSS JOIN record AS r ON r.key = chosen.value
        CROSS JOIN record AS f ON f.key = ifnull(r.other, r.key)
        LEFT JOIN record AS c ON c.entry = r.key AND c.kind = 'close' AND c.event IN line
        """,
        (json.dumps(entries),),
    ).fetchall()
    found = []
    for key, event, ended, by, *text in rows:
        state: State = "in force" if ended is None else "superseded" if by else "undone"
        fact = read_fact(*text)
        if state not in wanted.states or (wanted.events is not None and event not in wanted.events):
            continue
        if wanted.takes(fact):
            found.append(Listed(key, event, fact, state, ended, _instead_of(database, key)))
    return found


def _instead_of(database: sqlite3.Connection, key: int) -> Fact | None:
    """The fact that what record ``key`` brought in force superseded."""
    row = database.execute(
        "SELECT f.name, f.salt, f.body, f.leaf FROM record AS c "
        "JOIN record AS r ON r.key = c.entry JOIN record AS f ON f.key = ifnull(r.other, r.key) "
        "WHERE c.kind = 'close' AND c.other = ? AND c.event IN line LIMIT 1",
        (key,),
    ).fetchone()
    return read_fact(*row) if row else None
