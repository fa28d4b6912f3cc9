"""Reading a store: its history, its versions, and what each of them holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from editcli.store.files import atomic
from editcli.store.files.layout import Layout
from editcli.store.records import Version, version_id
from editcli.store.tables import abandoned, contents, database, history, listing, refs
from editcli.store.tables.abandoned import MADE_AGAIN, REMOVED, Abandoned
from editcli.store.tables.contents import PAGE, Blob, Change, Entry
from editcli.store.tables.database import DAMAGED
from editcli.store.tables.history import Event, version_of
from editcli.store.tables.listing import Listed, Wanted
from editors import EditorError, Fact, FactClosure
from editors.methods.edit_state import full_id

FIRST_PAGE = 100  # facts; most listings are short
FEW_LETTERS = 3  # with fewer, most facts have them
SHOWN = 100  # ids that begin alike


@dataclass(frozen=True, slots=True)
class FactPast:
    """A fact, whose text is in record ``text``: the version that brought it in force, and if it is
    so no longer, why not, and since which version."""

    text: int
    fact: Fact
    added_in: Version
    closure: FactClosure | None = None
    closed_in: Version | None = None


class StoreReader:
    """What a store holds.

    Every call reads the disk anew, so it sees what other processes committed. All calls raise
    EditorError where something that they need is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._layout = Layout(path)

    # --- versions -------------------------------------------------------------------------------

    def head(self) -> Version:
        """The current version."""
        return self.version("HEAD")

    def version(self, ref: str = "HEAD") -> Version:
        """The version that `ref` means: an id, its number, a tag or HEAD, then `~N` for ancestors.

        Raises EditorError, whose hint is the nearest name, where there is no such version.
        """
        with self._reading() as base:
            event = history.publishing(base, refs.resolved(base, ref))
            assert event is not None  # its number was found
            return _versions(base, [event])[0]

    def ids(self) -> list[str]:
        """The ids of all versions, oldest first."""
        with self._reading() as base:
            rows = base.execute("SELECT made FROM event WHERE made IS NOT NULL ORDER BY made")
            return [version_id(number) for (number,) in rows]

    def versions(self) -> tuple[Version, ...]:
        """All versions, oldest first."""
        with self._reading() as base:
            return _versions(base, history.events(base, "made IS NOT NULL"))

    def ancestry(self, version: Version) -> tuple[Version, ...]:
        """A version and its ancestors, newest first."""
        with self._reading() as base:
            return _versions(base, history.ancestry(base, version.number))

    def history(self) -> list[tuple[Event, str | None]]:
        """All events, oldest first, each with its message, None for one that was purged."""
        with self._reading() as base:
            return _with_messages(base, history.events(base))

    def newest_first(self) -> Iterator[tuple[Event, str | None]]:
        """The same, newest first, read as far as they are asked for."""
        before, rows = 0, FIRST_PAGE
        while rows:
            with self._reading() as base:
                found = _with_messages(base, history.newest_events(base, before, rows))
            yield from found
            before, rows = (found[-1][0].seq, PAGE) if len(found) == rows else (0, 0)

    def events(self, numbers: Collection[int]) -> dict[int, Event]:
        """The events with these numbers, by number."""
        with self._reading() as base:
            return history.numbered_events(base, numbers)

    def scores_of(self, events: Collection[int]) -> dict[int, dict[str, Any]]:
        """What the checks measured that are among these events, by their numbers."""
        with self._reading() as base:
            return contents.scores(base, events)

    def all_scores(self) -> dict[int, dict[str, Any]]:
        """What checks measured, by the numbers of their events, oldest first."""
        with self._reading() as base:
            return contents.scores(base, history.checks(base))

    def scores(self, version: Version) -> list[dict[str, Any]]:
        """What checks of ``version`` measured, oldest first."""
        with self._reading() as base:
            return [*contents.scores(base, history.checks(base, version.id)).values()]

    def about(self, fact: str) -> set[int]:
        """The numbers of the events that brought a fact (an id) in force, or ended that."""
        with self._reading() as base:
            return contents.events_about(base, fact)

    def changes(self, event: int, limit: int = -1) -> list[Change]:
        """What an event did to facts, in order, at most ``limit`` of it."""
        return self.changes_of([event], limit)[event]

    def changes_of(self, events: Iterable[int], limit: int = -1) -> dict[int, list[Change]]:
        """The same of several events, by their numbers."""
        with self._reading() as base:
            return {event: contents.changes_by(base, event, limit) for event in events}

    def changing(self, name: str) -> set[int]:
        """The numbers of the events since which the blob called ``name`` is another one."""
        with self._reading() as base:
            return contents.events_changing(base, name)

    def refs(self) -> dict[str, str]:
        """HEAD and every tag, each with the id of its version."""
        with self._reading() as base:
            return {"HEAD": history.last_event(base).head, **history.tags(base)}

    # --- what a version holds -------------------------------------------------------------------

    def count(self, version: Version) -> int:
        """The number of facts in force."""
        with self._reading() as base:
            return history.count_facts(base, version.number)

    def in_force(self, version: Version) -> Iterator[Entry]:
        """The facts in force, in the order in which they were entered."""
        after: int | None = 0
        while after is not None:
            with self.along(version) as base:
                entries = contents.in_force(base, after, PAGE)
            yield from entries
            after = entries[-1].key if entries else None

    def list_facts(self, version: Version, wanted: Wanted) -> Iterator[Listed]:
        """The facts that ``wanted`` takes, up to ``version``, the newest first."""
        for entries in self._entries(version, wanted.letters):
            with self.along(version) as base:
                found = listing.listed(base, entries, wanted)
            yield from found

    def _entries(self, version: Version, letters: str) -> Iterator[list[int]]:
        """What brought facts in force, in pages; with some ``letters``, of facts that hold them."""
        if len(letters) >= FEW_LETTERS:
            with self.along(version) as base:
                entries = listing.entries_with(base, letters)
            yield from (entries[start : start + PAGE] for start in range(0, len(entries), PAGE))
            return
        before, rows = 0, FIRST_PAGE
        while rows:
            with self.along(version) as base:
                entries = listing.newest_entries(base, before, rows)
            yield entries
            before, rows = (entries[-1], PAGE) if len(entries) == rows else (0, 0)

    def diff(self, before: Version, after: Version) -> tuple[list[Entry], list[Entry]]:
        """The facts that are in force only in ``before``, and those only in ``after``."""
        with self.along(before) as base:
            history.mark_line(base, after.number, "other_line")
            return contents.differing(base)

    def past(self, version: Version, fact: str) -> FactPast | None:
        """What happened to a fact (an id) up to ``version``; None if it was never in force."""
        with self.along(version) as base:
            entries = contents.entries_of(base, fact)
            text = entries[0].text if entries else contents.newest_text(base, fact)
            if text is None:
                return None
            found = contents.texts(base, [text])[text]
            assert found is not None  # one that was purged has no id

            def version_at(seq: int) -> Version:
                # It is on the line of a version.
                return _versions(base, history.events(base, "seq = ?", (seq,)))[0]

            if entries:
                return FactPast(text, found, version_at(entries[0].event))
            closures = contents.closures(base, fact)
            event = base.execute("SELECT event FROM record WHERE key = ?", (text,)).fetchone()[0]
            ended, closure = closures[-1] if closures else (event, FactClosure("undone"))
            return FactPast(text, found, version_at(event), closure, version_at(ended))

    def ids_beginning(self, prefix: str) -> list[str]:
        """The first ids of facts, in force or not, that begin with ``prefix``."""
        with self._reading() as base:
            return contents.ids_beginning(base, prefix, SHOWN) if prefix else []

    def full_id(self, prefix: str) -> str:
        """The id of the one fact, in force or not, whose id is ``prefix`` or starts with it.

        Raises EditorError where there is none, or several.
        """
        return full_id(prefix, self.ids_beginning(prefix))

    def entry(self, version: Version, fact: str) -> Entry | None:
        """The entry in force of a fact (an id); None if it is not in force."""
        with self.along(version) as base:
            found = contents.entries_of(base, fact)
            return found[0] if found else None

    def blobs(self, version: Version) -> dict[str, Blob]:
        """The blobs by name."""
        with self.along(version) as base:
            return contents.blobs(base)

    def has_blob(self, version: Version, name: str) -> bool:
        """Whether the version has a blob of this name."""
        with self.along(version) as base:
            return contents.has_blob(base, name)

    def abandoned(self, before: datetime) -> Abandoned:
        """What nothing has used since ``before``, a time with its zone."""
        with self._reading() as base:
            return abandoned.found(base, before)

    def removed(self) -> list[str]:
        """The ids of the versions that lack blobs which were removed since nothing used them, and
        of those that come from such a version, oldest first."""
        with self._reading() as base:
            return abandoned.removed_versions(base)

    def read(self, name: str, blob: Blob) -> bytes:
        """The bytes of the blob called `name`, checked against their hash.

        Raises EditorError when the blob is missing or damaged.
        """
        path = self.blob_path(name, blob)
        with atomic.explained(f"reading {name}"):
            data = atomic.read(path)
        if data is None or sha256(data).hexdigest() != blob.digest:
            raise EditorError(f"blob {name!r} ({blob.digest[:12]}) is damaged", DAMAGED)
        return data

    def blob_path(self, name: str, blob: Blob) -> Path:
        """The path of a blob, whose hash is not checked. Raises EditorError where it is missing."""
        path = self._layout.blobs / blob.digest
        if path.is_symlink() or not path.is_file():
            with self._reading() as base:
                if blob.digest in abandoned.removed(base):
                    raise EditorError(f"the version with {name!r} {REMOVED}", MADE_AGAIN)
            raise EditorError(f"blob {name!r} ({blob.digest[:12]}) is missing", DAMAGED)
        return path

    # --- the whole ------------------------------------------------------------------------------

    def tip(self) -> str:
        """The hash of the last line of the history, which vouches for everything."""
        with self._reading() as base:
            return history.tip(base)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with database.reading(self._layout.database) as connection:
            yield connection

    @contextmanager
    def along(self, version: Version) -> Iterator[sqlite3.Connection]:
        """The database, with the line of ``version`` marked for :mod:`editcli.store.tables`."""
        with self._reading() as base:
            history.mark_line(base, version.number)
            yield base


def _versions(base: sqlite3.Connection, made: Sequence[Event]) -> tuple[Version, ...]:
    notes = contents.notes(base, [event.seq for event in made])
    return tuple(version_of(event, notes[event.seq]) for event in made)


def _with_messages(
    base: sqlite3.Connection, events: Sequence[Event]
) -> list[tuple[Event, str | None]]:
    notes = contents.notes(base, [event.seq for event in events])
    return [(event, notes[event.seq].get("message")) for event in events]
