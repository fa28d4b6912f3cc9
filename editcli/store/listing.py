"""Facts as they are listed: along a line, with what became of each, chosen by what is in them."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from editcli.store.contents import read_fact
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

    def takes(self, fact: Fact) -> bool:
        """Whether the texts of ``fact`` are wanted."""
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


def list_facts(
    database: sqlite3.Connection, wanted: Wanted, before: int, rows: int
) -> tuple[list[Listed], int]:
    """Facts along the marked line, the newest first, from among the ``rows`` before record
    ``before`` (0: from the newest on). Also returns the record to go on from, 0 at the end."""
    # A plus sign keeps SQLite from an index, and so from sorting: rows come in order as they stand.
    values: list[Any] = []
    condition = ""
    if before:
        condition += " AND r.key < ?"
        values.append(before)
    if wanted.letters:
        condition += " AND f.body LIKE ?"
        values.append(f"%{wanted.letters}%")
    found = database.execute(
        f"""
        WITH chosen AS MATERIALIZED (
          SELECT r.key, f.key AS text FROM record AS r
          CROSS JOIN record AS f ON f.key = ifnull(r.other, r.key)
          WHERE r.kind IN ('fact', 'again') AND +r.event IN line{condition}
          ORDER BY r.key DESC LIMIT ?
        )
        SELECT r.key, r.event, c.event, c.other, f.name, f.salt, f.body, f.leaf
        FROM chosen CROSS JOIN record AS r ON r.key = chosen.key
        CROSS JOIN record AS f ON f.key = chosen.text
        LEFT JOIN record AS c ON c.entry = r.key AND c.kind = 'close' AND c.event IN line
        ORDER BY r.key DESC
        """,
        (*values, rows),
    ).fetchall()
    listed = []
    for key, event, ended, by, *text in found:
        state: State = "in force" if ended is None else "superseded" if by else "undone"
        fact = read_fact(*text)
        if state not in wanted.states or (wanted.events is not None and event not in wanted.events):
            continue
        if fact is None:
            if wanted.match or wanted.tags or wanted.source:
                continue
        elif not wanted.takes(fact):
            continue
        listed.append(Listed(key, event, fact, state, ended, _instead_of(database, key)))
    return listed, found[-1][0] if len(found) == rows else 0


def _instead_of(database: sqlite3.Connection, key: int) -> Fact | None:
    """The fact that what record ``key`` brought in force superseded."""
    row = database.execute(
        "SELECT f.name, f.salt, f.body, f.leaf FROM record AS c "
        "JOIN record AS r ON r.key = c.entry JOIN record AS f ON f.key = ifnull(r.other, r.key) "
        "WHERE c.kind = 'close' AND c.other = ? AND c.event IN line LIMIT 1",
        (key,),
    ).fetchone()
    return read_fact(*row) if row else None
