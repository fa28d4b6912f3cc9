"""Changing a store: each call commits one event, or leaves the store as it was."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Unpack

from editcli.store import configuration, signatures
from editcli.store.changes import Changes, NewBlob, Purged, recorded
from editcli.store.files import atomic
from editcli.store.files.journal import Journal
from editcli.store.files.layout import Layout
from editcli.store.records import CONFIG, DIGEST, About, Version, is_tag, now, version_id
from editcli.store.signatures import Signer
from editcli.store.tables import abandoned, contents, database, history, traces
from editcli.store.tables.abandoned import MADE_AGAIN, REMOVED, Abandoned
from editcli.store.tables.history import Event, number_of, version_of
from editcli.store.tables.recorder import Recorder
from editcli.wording import counted
from editors import EditorError


class Transaction:
    """The right to change a store while its lock is held; `Store.writing` gives one."""

    def __init__(
        self,
        layout: Layout,
        connection: sqlite3.Connection,
        find: Callable[[str], Version],
        signer: Signer | None = None,
    ) -> None:
        """``find``: from a ref to the version that it means. ``signer``: of a signed history."""
        self._signer = signer
        self._layout, self._database, self._find = layout, connection, find
        self._journal = Journal(layout.journal)
        self._open = True

    def close(self) -> None:
        """Give the right back; any further call raises EditorError."""
        self._open = False

    def publish(
        self,
        operation: str,
        changes: Changes,
        *,
        rejected: bool = False,
        config: bytes | None = None,
        **about: Unpack[About],
    ) -> Version:
        """Commit a new version, child of HEAD, and make it HEAD, unless it is ``rejected``.
        ``config``: the text of another configuration, which is in force from then on.

        Equal blobs are stored once. Raises EditorError, and leaves the store as it was, where the
        disk refuses, or ``changes`` close a fact that is not in force, or bring one in force that
        is so already, or was purged.
        """
        new_files: list[Path] = []
        try:
            with self._changing("publishing"):
                version = self._publish(
                    operation, changes, about, new_files, rejected=rejected, config=config
                )
        except BaseException:
            self._discard_unused(new_files)
            raise
        if config is not None:
            configuration.write(self._layout, config)
        return version

    def purge(self, facts: Collection[str], changes: Changes, **about: Unpack[About]) -> Purged:
        """Commit a new version, child of HEAD, and empty all records with the texts of ``facts``
        (ids): the facts, and notes and scores that mention one of them. All blobs that were made
        from them are removed, so versions that had them cannot be used any more. So are entries of
        the journal that were made from them, and blobs that no version has, which may have been.
        Only hashes stay, and the event, which says what is gone. ``changes``: of the new version.

        Raises EditorError, and changes nothing, where the message mentions one of the facts, the
        new version would hold one, or a blob that was made from one, or the disk refuses.
        """
        new_files: list[Path] = []
        try:
            with self._changing("purging"):
                base = self._database
                gone = traces.traces_of(base, facts)
                sought = traces.Sought(gone.texts)
                if sought.are_in([about.get("message"), about.get("extra")]):
                    raise EditorError(
                        "the message holds text that is to be purged", "leave the text out of it"
                    )
                unfinished = self._journal.unfinished()
                self._clear_journal(facts)
                stored = self._layout.blobs.iterdir()
                self._discard_unused([path for path in stored if DIGEST.fullmatch(path.name)])
                history.mark_line(base, number_of(history.last_event(base).head))
                kept = {b.digest for n, b in contents.blobs(base).items() if n not in changes.blobs}
                leaves = [leaf.hex() for leaf in gone.leaves]
                purged = [*leaves, *sorted(gone.blobs - kept)]
                version = self._publish("purge", changes, about, new_files, purged)
                traces.empty(base, gone.records)
                history.mark_line(base, version.number)
                if count := contents.count_purged(base):
                    raise EditorError(f"the new version would hold {counted(count, 'purged fact')}")
                database.untidy(base)
        except BaseException:
            self._discard_unused(new_files)
            raise
        # What was being written before the commit is whole by now, or nobody writes it any more.
        for path in unfinished:
            atomic.discard(path)
        self._clear_journal(facts)
        self.remove_purged()
        notes = len(gone.records) - len(gone.facts)
        return Purged(version, len(gone.facts), notes, len(gone.blobs))

    def remove_purged(self) -> None:
        """Remove the blobs that were purged or that abandoned versions held, and what the database
        has left of texts that were purged. A process that was killed may not have come to it.
        Raises EditorError."""
        what = "removing what was purged"
        with database.explained(what), atomic.explained(what):
            for digest in traces.purged_blobs(self._database):
                (self._layout.blobs / digest).unlink(missing_ok=True)
            listed = abandoned.listed(self._database)
            if any((self._layout.blobs / digest).exists() for digest in listed):
                for digest in abandoned.removed(self._database):
                    (self._layout.blobs / digest).unlink(missing_ok=True)
            if database.is_untidy(self._database):
                self._clear_journal()
            database.tidy(self._database)

    def _clear_journal(self, facts: Collection[str] = ()) -> None:
        """Remove what was made from ``facts`` (ids), or from facts that were purged, or from nobody
        knows what, from the journal."""
        purged = frozenset(facts)
        for path, origin in self._journal.origins():
            if (
                origin is None
                or not purged.isdisjoint(origin.stored | origin.new)
                or origin.stored != contents.stored(self._database, origin.stored)
            ):
                atomic.discard(path)

    def remove_abandoned(self, before: datetime, *, who: str = "", message: str = "") -> Abandoned:
        """Remove the blobs that only versions hold which nothing has used since ``before``. The
        history keeps these versions, and says so; they cannot be used any more."""
        with self._changing("removing abandoned versions"):
            found = abandoned.found(self._database, before)
            if found.blobs:
                extra = {"versions": list(found.versions)}
                purged = sorted(found.blobs)
                self._point(
                    abandoned.OPERATION, "", "", "", who, message, extra=extra, purged=purged
                )
        self.remove_purged()
        return found

    def move_head(self, ref: str, *, who: str = "", message: str = "", at: str = "") -> Version:
        """Make the version that `ref` means current; does nothing where it is already. Where it was
        made on another base, its configuration is in force again. `at`: by default now."""
        target = self._find(ref)
        config = self.config_for(target)
        with self._changing("moving HEAD"):
            history.mark_line(self._database, target.number)
            if count := contents.count_purged(self._database):
                raise EditorError(
                    f"{counted(count, 'fact')} of {target.id} {'was' if count == 1 else 'were'} "
                    "purged, and its edits with them",
                    "use a version that was made later",
                )
            self._require_kept(target)
            if history.last_event(self._database).head != target.id:
                digest = sha256(config).hexdigest() if config else ""
                self._point(
                    "checkout", target.id, target.id, "", who, message, at=at, config=digest
                )
        if config is not None:
            configuration.write(self._layout, config)
        return target

    def config_for(self, version: Version) -> bytes | None:
        """The text of the configuration that has to be in force for ``version`` to be used; None
        where the one that is in force will do. Raises EditorError where it was not kept."""
        return configuration.needed_for(self._layout, self._database, version.config)

    def config_of(self, version: Version) -> bytes | None:
        """The text of the configuration that ``version`` was made under; None where it was not
        kept."""
        return configuration.text_of(self._layout, version.config)

    def tag(
        self,
        name: str,
        ref: str = "HEAD",
        *,
        move: bool = False,
        who: str = "",
        message: str = "",
        at: str = "",
    ) -> Version:
        """Name a version. Raises EditorError for a bad name, or one in use unless `move`."""
        if not is_tag(name):
            raise EditorError(
                f"{name!r} cannot be a tag",
                "a tag starts with a letter, holds letters, digits, `.`, `_` and `-`, and is "
                "neither HEAD nor a version number",
            )
        target = self._find(ref)
        with self._changing("tagging"):
            tags = history.tags(self._database)
            for tag in tags:
                if tag != name and tag.lower() == name.lower():
                    raise EditorError(
                        f"tag {name!r} differs from {tag!r} only in its case",
                        f"take another name, or move the tag: `editcli tag {tag} --force`",
                    )
            if tags.get(name) == target.id:
                return target
            if name in tags and not move:
                raise EditorError(f"tag {name!r} already names {tags[name]}", "`--force` moves it")
            self._require_kept(target)
            self._point("tag", target.id, "", name, who, message, at=at)
        return target

    def record_scores(
        self, version: Version, scores: Mapping[str, object], *, who: str = "", message: str = ""
    ) -> None:
        """Keep what a check of ``version`` measured."""
        with self._changing("recording scores"):
            self._point("check", version.id, "", "", who, message, scores)

    def delete_tag(self, name: str, *, who: str = "", message: str = "") -> str:
        """Take a name away. Returns the id of its version. Raises EditorError where there is no
        such tag."""
        with self._changing("deleting a tag"):
            tags = history.tags(self._database)
            if name not in tags:
                raise EditorError(f"no tag is called {name!r}", "`editcli tag` lists the tags")
            self._point("tag", "", "", name, who, message)
        return tags[name]

    def _publish(
        self,
        operation: str,
        changes: Changes,
        about: About,
        new_files: list[Path],
        purged: Sequence[str] = (),
        *,
        rejected: bool = False,
        config: bytes | None = None,
    ) -> Version:
        base = self._database
        config = self._layout.config.read_bytes() if config is None else config
        configured = sha256(config).hexdigest()
        number = history.newest(base) + 1
        parent = history.last_event(base).head if number > 1 else ""
        history.mark_line(base, number_of(parent) if parent else 0)
        digests = {
            name: self._put(blob.data, new_files) if isinstance(blob, NewBlob) else None
            for name, blob in sorted(changes.blobs.items())
        }
        keeps_config = configuration.is_recorded(base, configured)
        if not keeps_config:
            self._put(config, new_files)
        atomic.sync_directory(self._layout.blobs)
        seq = base.execute("SELECT ifnull(max(seq), 0) + 1 FROM event").fetchone()[0]
        recorder = Recorder(base, seq)
        counts = recorded(base, recorder, changes, digests)
        if not keeps_config:
            recorder.blob(CONFIG, configured)
        told: dict[str, Any] = {"message": "", "tools": {}, "extra": {}, **about}
        who, at = told.pop("who", ""), told.pop("at", None) or now().isoformat()
        recorder.told("note", told)
        event = self._append(
            Event(
                at=at,
                who=who,
                operation=operation,
                version=version_id(number),
                head=parent if rejected else version_id(number),
                made=True,
                parent=parent,
                config=configured,
                changes=counts,
                content=recorder.content,
                purged=purged,
            ),
        )
        return version_of(event, told)

    def _point(
        self,
        operation: str,
        version: str,
        head: str,
        tag: str,
        who: str,
        message: str,
        scores: Mapping[str, object] | None = None,
        at: str = "",
        extra: Mapping[str, object] | None = None,
        purged: Sequence[str] = (),
        config: str = "",
    ) -> None:
        """Record that ``version`` has the name ``tag`` now, that it is HEAD, or its scores; or that
        blobs were ``purged``."""
        base = self._database
        last = history.last_event(base)
        recorder = Recorder(base, last.seq + 1)
        recorder.told("note", {"message": message, "tools": {}, "extra": extra or {}})
        if scores is not None:
            recorder.told("scores", scores)
        event = Event(
            at=at or now().isoformat(),
            who=who,
            operation=operation,
            version=version,
            head=head or last.head,
            tag=tag,
            config=config or configuration.digest_in_force(base),
            content=recorder.content,
            purged=purged,
        )
        self._append(event)

    def _append(self, event: Event) -> Event:
        """Add ``event`` at the end of the history, signed if it is a signed one."""
        added = history.append(self._database, event)
        if self._signer:
            signatures.add(self._database, added.seq, history.tip(self._database), self._signer)
        return added

    def _require_kept(self, version: Version) -> None:
        """Raise EditorError where blobs of a version, or of one that it comes from, were removed
        since nothing used it."""
        if version.id in abandoned.removed_versions(self._database):
            raise EditorError(f"{version.id} {REMOVED}", MADE_AGAIN)

    def _put(self, data: bytes, new_files: list[Path]) -> str:
        """Store a blob, unless the store has it; a new file is added to `new_files`."""
        digest = sha256(data).hexdigest()
        path = self._layout.blobs / digest
        if not path.exists():
            new_files.append(path)
        # Other bytes under this name are damage, which writing the right ones mends.
        if not path.is_file() or path.is_symlink() or atomic.read(path) != data:
            atomic.write(path, data)
        return digest

    def _discard_unused(self, files: Sequence[Path]) -> None:
        """Remove those of these blobs that no version has. One that is left does no harm."""
        with suppress(sqlite3.DatabaseError):  # of a disk that fails
            for path in files:
                if not self._is_used(path.name):
                    atomic.discard(path)

    def _is_used(self, digest: str) -> bool:
        rows = self._database.execute(
            "SELECT 1 FROM record WHERE kind = 'blob' AND digest = ? LIMIT 1", (digest,)
        )
        return rows.fetchone() is not None

    @contextmanager
    def _changing(self, what: str) -> Iterator[None]:
        """A change that is committed when the block ends well, and has not happened otherwise."""
        if not self._open:
            raise EditorError("this transaction is over")
        with database.explained(what), atomic.explained(what):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
