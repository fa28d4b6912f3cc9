"""Changing a store: each call commits one event, or leaves the store as it was."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Unpack

from editcli.store import atomic, contents, database, history, traces
from editcli.store.contents import Blob
from editcli.store.history import Event, number_of
from editcli.store.layout import Layout
from editcli.store.recorder import Recorder
from editcli.store.records import NUMBER, TAG, About, Version, now, version_id
from editcli.wording import counted
from editors import EditorError, Fact
from editors.model.saved_payload import Groups


@dataclass(frozen=True, slots=True)
class NewBlob:
    """The bytes of a blob, and the ids of the facts that they were made from, group by group."""

    data: bytes
    made_from: Groups = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """How a new version differs from its parent.

    ``facts``: those that are newly in force, in order, each id once. ``again``: the records with
    the texts of facts that are in force again. ``closed``: by id, the facts that are no longer in
    force, each with the id of the fact in its place if there is one; an id that is also among
    ``facts`` means the fact as it was before, except where another fact takes its place at once.
    ``blobs``: by name, those that are new or other, and None for those that are gone.
    """

    facts: Sequence[Fact] = ()
    again: Sequence[int] = ()
    closed: Mapping[str, str | None] = field(default_factory=dict)
    blobs: Mapping[str, NewBlob | Blob | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Purged:
    """What was purged: the numbers of texts of facts, of notes and scores, and of blobs. The
    ``version`` is the one without them."""

    version: Version
    facts: int
    notes: int
    blobs: int


class Transaction:
    """The right to change a store while its lock is held; `Store.writing` gives one."""

    def __init__(
        self, layout: Layout, connection: sqlite3.Connection, find: Callable[[str], Version]
    ) -> None:
        """``find``: from a ref to the version that it means."""
        self._layout, self._database, self._find = layout, connection, find
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
        **about: Unpack[About],
    ) -> Version:
        """Commit a new version, child of HEAD, and make it HEAD, unless it is ``rejected``.

        Equal blobs are stored once. Raises EditorError, and leaves the store as it was, where the
        disk refuses, or ``changes`` close a fact that is not in force.
        """
        new_files: list[Path] = []
        try:
            with self._changing("publishing"):
                return self._publish(operation, changes, about, new_files, rejected=rejected)
        except BaseException:
            self._discard_unused(new_files)
            raise

    def purge(self, facts: Collection[str], changes: Changes, **about: Unpack[About]) -> Purged:
        """Commit a new version, child of HEAD, and empty all records with the texts of ``facts``
        (ids): the facts, and notes and scores that mention one of them. All blobs that were made
        from them are removed, so versions that had them cannot be used any more. Only hashes stay,
        and the event, which says what is gone. ``changes``: of the new version, which must not hold
        a blob that was made from one of ``facts``.

        Raises EditorError, and changes nothing, where the message mentions one of the facts, or the
        disk refuses.
        """
        new_files: list[Path] = []
        try:
            with self._changing("purging"):
                gone = traces.traces_of(self._database, facts)
                if traces.mentions(about.get("message", ""), gone.texts):
                    raise EditorError(
                        "the message holds text that is to be purged", "leave the text out of it"
                    )
                leaves = [leaf.hex() for leaf in gone.leaves]
                purged = [*leaves, *sorted(gone.blobs)]
                version = self._publish("purge", changes, about, new_files, purged)
                traces.empty(self._database, gone.records)
        except BaseException:
            self._discard_unused(new_files)
            raise
        self.remove_purged()
        notes = len(gone.records) - len(gone.facts)
        return Purged(version, len(gone.facts), notes, len(gone.blobs))

    def remove_purged(self) -> None:
        """Remove the blobs that were purged, which a process that was killed may have left."""
        for digest in traces.purged_blobs(self._database):
            atomic.discard(self._layout.blobs / digest)

    def move_head(self, ref: str, *, who: str = "", message: str = "", at: str = "") -> Version:
        """Make the version that `ref` means current; does nothing where it is already. `at`: by
        default now."""
        target = self._find(ref)
        with self._changing("moving HEAD"):
            history.mark_line(self._database, target.number)
            if count := contents.count_purged(self._database):
                raise EditorError(
                    f"{counted(count, 'fact')} of {target.id} {'was' if count == 1 else 'were'} "
                    "purged, and its edits with them",
                    "use a version that was made later",
                )
            if history.last_event(self._database).head != target.id:
                self._point("checkout", target.id, target.id, "", who, message, at=at)
        return target

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
        if not TAG.fullmatch(name) or NUMBER.fullmatch(name) or name.upper() == "HEAD":
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
    ) -> Version:
        base = self._database
        number = history.newest(base) + 1
        parent = history.last_event(base).head if number > 1 else ""
        if parent:
            history.mark_line(base, number_of(parent))
        digests = {
            name: self._put(blob.data, new_files) if isinstance(blob, NewBlob) else None
            for name, blob in sorted(changes.blobs.items())
        }
        atomic.sync_directory(self._layout.blobs)
        seq = base.execute("SELECT ifnull(max(seq), 0) + 1 FROM event").fetchone()[0]
        recorder = Recorder(base, seq)
        named = {*changes.closed, *filter(None, changes.closed.values())} if parent else ()
        before = {fact: self._entry(fact) for fact in sorted(named)}
        for text in changes.again:
            recorder.again(text)
        entered = {fact.id: recorder.fact(fact) for fact in changes.facts}
        counts = _close(recorder, changes.closed, before, entered)
        counts["added"] += len(changes.again)
        for name, digest in digests.items():
            blob = changes.blobs[name]
            if isinstance(blob, Blob):  # of an earlier version
                recorder.blob(name, blob.digest, blob.made_from)
            else:
                groups = blob.made_from if blob else ()
                keys = [[entered.get(fact) or self._text(fact) for fact in g] for g in groups]
                recorder.blob(name, digest, keys)
        told: dict[str, Any] = {"message": "", "tools": {}, "extra": {}, **about}
        who, at = told.pop("who", ""), told.pop("at", None) or now().isoformat()
        recorder.told("note", told)
        event = history.append(
            base,
            Event(
                at=at,
                who=who,
                operation=operation,
                version=version_id(number),
                head=parent if rejected else version_id(number),
                made=True,
                parent=parent,
                config=sha256(self._layout.config.read_bytes()).hexdigest(),
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
    ) -> None:
        """Record that ``version`` has the name ``tag`` now, that it is HEAD, or its scores."""
        base = self._database
        last = history.last_event(base)
        recorder = Recorder(base, last.seq + 1)
        recorder.told("note", {"message": message, "tools": {}, "extra": {}})
        if scores is not None:
            recorder.told("scores", scores)
        event = Event(
            at=at or now().isoformat(),
            who=who,
            operation=operation,
            version=version,
            head=head or last.head,
            tag=tag,
            content=recorder.content,
        )
        history.append(base, event)

    def _entry(self, fact: str) -> int | None:
        """The record that brought a fact in force along the line of HEAD."""
        found = contents.entries_of(self._database, fact)
        return found[0].key if found else None

    def _text(self, fact: str) -> int:
        """The record with the text of a fact that was in force at some time before."""
        key = contents.newest_text(self._database, fact)
        if key is None:
            raise EditorError(f"a blob was made from fact {fact}, which the store does not have")
        return key

    def _put(self, data: bytes, new_files: list[Path]) -> str:
        """Store a blob, unless the store has it; a new file is added to `new_files`."""
        digest = sha256(data).hexdigest()
        path = self._layout.blobs / digest
        known = path.exists()
        if not known:
            new_files.append(path)
        # Other bytes under this name are damage, which writing the right ones mends.
        if not known or path.read_bytes() != data:
            atomic.write(path, data)
        return digest

    def _discard_unused(self, files: Sequence[Path]) -> None:
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


def _close(
    recorder: Recorder,
    closed: Mapping[str, str | None],
    before: Mapping[str, int | None],
    entered: Mapping[str, int],
) -> dict[str, int]:
    """Record which facts are ``closed``; returns how many facts were added, removed and superseded.
    ``before`` and ``entered``: what brought facts in force before and in this version."""
    closed_at_once = 0
    for fact, by in closed.items():
        entry, anew = before.get(fact), fact in entered and by != fact
        if entry is None and not anew:
            raise EditorError(f"fact {fact} is not in force")
        replacing = (entered.get(by) or before.get(by)) if by else None
        if entry is not None:
            recorder.close(entry, replacing)
        if anew:
            closed_at_once += 1
            recorder.close(entered[fact], replacing)
    superseded = sum(by is not None for by in closed.values())
    return {
        "added": len(entered) - closed_at_once,
        "removed": len(closed) - superseded,
        "superseded": superseded,
    }


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
