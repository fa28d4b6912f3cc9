"""A training that is under way. It holds no lock, so others may change the store meanwhile."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from editcli.store.files.journal import Journal, Origin
from editcli.store.tables import contents, database


class Run:
    """The journal as one training uses it; `Store.run` gives one.

    What is purged meanwhile stays purged: nothing that was made from it is written any more. A
    purge commits only when no reader of the database is left, and looks at the journal after that.
    An entry is written while the database is being read, so either the purge finds it, or its
    writer finds that facts are gone.
    """

    def __init__(self, place: Path, journal: Journal) -> None:
        """``place``: of the database."""
        self._place, self._journal = place, journal
        self._known: set[str] = set()  # facts that the store had at some time during the run
        self._written: set[str] = set()
        self._read: set[str] = set()

    @property
    def resumed(self) -> int:
        """How many entries of an earlier run were used."""
        return len(self._read - self._written)

    def relies_on(self, facts: Iterable[str]) -> list[str]:
        """Take note of those of ``facts`` (ids) that the store has. Returns those that it had when
        this was called before, and that were purged since."""
        wanted = [*facts]
        with database.reading(self._place) as base:
            stored = contents.stored(base, wanted)
        gone = [fact for fact in wanted if fact in self._known and fact not in stored]
        self._known |= stored
        return gone

    def get(self, key: str) -> bytes | None:
        """The bytes under ``key``; None where absent or damaged."""
        payload = self._journal.get(key)
        if payload is not None:
            self._read.add(key)
        return payload

    def put(self, key: str, payload: bytes, made_from: Collection[str] | None = None) -> None:
        """Keep ``payload``, unless a fact that it was made from was purged during the run.

        Raises EditorError when the disk refuses.
        """
        facts = self._known if made_from is None else frozenset(made_from)
        with database.reading(self._place) as base:
            stored = contents.stored(base, facts)
            new = facts - stored
            if new.isdisjoint(self._known):
                origin = None if made_from is None else Origin(frozenset(stored), frozenset(new))
                self._journal.put(key, payload, origin)
                self._known |= stored
                self._written.add(key)

    def forget(self) -> None:
        """Remove the entries that this run wrote or used, as they are published."""
        self._journal.remove(self._written | self._read)
