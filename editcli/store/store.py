"""Versions of what a model believes, on disk: a database, and content-addressed blobs beside it.

A change is published in two steps: first the blobs, each synced, then one transaction of the
database, which **commits** it. Before it, nothing has happened; after it, everything has. A process
that is killed at any instant leaves a store that opens at its last committed version. Readers take
no lock that lasts.
"""

from __future__ import annotations

import secrets
import shutil
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Unpack

from editcli.store import configuration, integrity, signatures
from editcli.store.files import atomic
from editcli.store.files.digests import Digests
from editcli.store.files.journal import Journal
from editcli.store.files.layout import Layout
from editcli.store.files.lock import locked
from editcli.store.integrity import Problem
from editcli.store.records import DIGEST, About, StoreConfig, Version, now, version_id
from editcli.store.run import Run
from editcli.store.signatures import Signer
from editcli.store.tables import abandoned, contents, database, history, listing, refs
from editcli.store.tables.abandoned import MADE_AGAIN, REMOVED, Abandoned
from editcli.store.tables.contents import PAGE, Blob, Change, Entry
from editcli.store.tables.database import DAMAGED
from editcli.store.tables.history import Event
from editcli.store.tables.listing import Listed, Wanted
from editcli.store.transaction import Changes, Transaction, version_of
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


class Store:
    """A store opened for reading; `writing()` opens it for a change.

    Every call reads the disk anew, so it sees what other processes committed. All calls raise
    EditorError where something that they need is damaged; `verify` lists the damage.
    """

    def __init__(self, path: Path, config: StoreConfig, text: bytes | None = None) -> None:
        """``text``: of ``config``, as it is written."""
        self.path = path
        self.config = config
        self._config_text = config.to_toml() if text is None else text
        self._layout = Layout(path)
        self.journal = Journal(self._layout.journal)

    # --- making and opening ---------------------------------------------------------------------

    @staticmethod
    def require_free(path: Path) -> None:
        """Raise EditorError where `path` exists and is not an empty folder."""
        if Layout(path).config.is_file():
            raise EditorError(f"{path} already holds a store", "use it, or name another `--store`")
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise EditorError(f"{path} is not an empty folder", "name another `--store`")

    @classmethod
    def create(
        cls,
        path: Path,
        config: StoreConfig,
        changes: Changes | None = None,
        signer: Signer | None = None,
        **about: Unpack[About],
    ) -> Store:
        """Make a store at `path` whose first version, v0001, holds `changes`. ``signer``: who signs
        its history, if ``config`` names one.

        The store appears at once and whole. Raises EditorError as `require_free`.
        """
        cls.require_free(path)
        fresh = path.parent / f"{path.name}.new-{secrets.token_hex(4)}"
        layout = Layout(fresh)
        try:
            with atomic.explained(f"making a store at {path}"):
                for folder in layout.folders:
                    folder.mkdir(parents=True)
                for file, text in layout.for_git.items():
                    atomic.write(file, text)
                atomic.write(layout.config, config.to_toml())
                database.create(layout.database, signed=signer is not None)
                with database.writing(layout.database) as connection:
                    first = Transaction(layout, connection, cls(fresh, config).version, signer)
                    first.publish("init", changes or Changes(), **about)
                for folder in (*layout.folders, fresh):
                    atomic.sync_directory(folder)
                if path.exists():
                    path.rmdir()  # empty, as seen above; a rename onto a folder is not portable
                atomic.replace(fresh, path)
                atomic.sync_directory(path.parent)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        return cls(path, config)

    @classmethod
    def open(cls, path: Path) -> Store:
        """The store at `path`. Raises EditorError where there is none, its format is another, or it
        holds links or pipes."""
        layout = Layout(path)
        layout.require_plain()
        data = configuration.read(layout)
        return cls(path, StoreConfig.from_toml(data), data)

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

    # --- changing and checking ------------------------------------------------------------------

    @contextmanager
    def writing(
        self, command: str = "editcli", wait: float = 0, signer: Signer | None = None
    ) -> Iterator[Transaction]:
        """Hold the store's lock and change the store; the lock shows `command` to other processes.

        Each call on the transaction commits by itself. What a killed process left is removed first.
        ``signer``: of a store whose history is signed. Raises EditorError when another process
        holds the lock for more than `wait` seconds, the history is damaged, `config.toml` was
        changed by hand, or the signer is not that of the store.
        """
        layout = self._layout
        signer = signatures.required(self.config.signer, signer)
        layout.require_plain()
        with locked(layout.lock, command, now(), wait):
            for folder in (layout.root, layout.blobs):
                atomic.sweep(folder)
            self.journal.sweep()
            with atomic.explained("opening the store"):
                for folder in layout.folders:
                    folder.mkdir(exist_ok=True)  # git keeps no empty folder
            with (
                database.writing(layout.database) as connection,
                closing(Transaction(layout, connection, self.version, signer)) as transaction,
            ):
                configuration.require_in_force(layout, connection, self._config_text)
                transaction.remove_purged()
                yield transaction

    @contextmanager
    def run(self) -> Iterator[Run]:
        """A training that is under way until the block ends. It holds no lock, and what is in the
        journal stays there. Raises EditorError when the disk refuses."""
        self._layout.require_plain()
        with self.journal.used():
            yield Run(self._layout.database, self.journal)

    def verify(self, digests: Digests | None = None) -> list[Problem]:
        """Everything that is wrong with the store; see `integrity.verify`. Without ``digests``,
        or where they trust no cache, everything is read."""
        full = digests is None or not digests.trusts_cache
        digests = digests or Digests(None, trusts_cache=False)
        with atomic.explained("verifying the store"):
            return list(integrity.verify(self._layout, digests, full=full))

    def tip(self) -> str:
        """The hash of the last line of the history, which vouches for everything."""
        with self._reading() as base:
            return history.tip(base)

    def unneeded_blobs(self) -> list[Path]:
        """The files of blobs that no version has, as a command that was killed leaves them."""
        with self._reading() as base:
            needed = contents.all_digests(base)
        with atomic.explained("reading the blobs"):
            files = [path for path in self._layout.blobs.iterdir() if DIGEST.fullmatch(path.name)]
        return sorted(path for path in files if path.name not in needed)

    def files_of(self, digests: Collection[str]) -> list[Path]:
        """The files of those of the blobs that are there."""
        paths = [self._layout.blobs / digest for digest in sorted(digests)]
        return [path for path in paths if path.is_file() and not path.is_symlink()]

    def remove(self, files: Sequence[Path]) -> None:
        """Remove these files; to be called while the store is being written to."""
        for path in files:
            atomic.discard(path)

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
