"""Changing a store: each call commits one event, or leaves the store as it was."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from editcli.store import atomic, history
from editcli.store.history import DAMAGED, Anchor, Chain, Event
from editcli.store.layout import Layout
from editcli.store.records import DIGEST, NUMBER, Digest, Version, timestamp, version_id
from editors import EditorError

Clock = Callable[[], datetime]

_TAG = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,99}")
_BLOB_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


class Transaction:
    """The right to change a store while its lock is held; `Store.writing` gives one."""

    def __init__(
        self, layout: Layout, clock: Clock, find_version: Callable[[str], Version]
    ) -> None:
        """``find_version``: from a ref to the version that it means."""
        self._layout = layout
        self._clock = clock
        self._find_version = find_version
        self._open = True
        self._settled = True
        self._state = self._recovered()

    def close(self) -> None:
        """Give the right back; any further call raises EditorError."""
        self._open = False

    def publish(
        self,
        operation: str,
        blobs: Mapping[str, bytes | Digest],
        facts: Sequence[str] = (),
        *,
        added: Sequence[str] = (),
        removed: Sequence[str] = (),
        superseded: Sequence[str] = (),
        author: str = "",
        message: str = "",
        tools: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> Version:
        """Commit a new version, child of HEAD, and move HEAD to it.

        `blobs` is the whole content: bytes, or the digest of a blob that the store has. Equal bytes
        are stored once. Raises EditorError, and leaves the store as it was, where the disk refuses,
        or the store has no blob of a digest.
        """
        chain = self._chain()
        new_files: list[Path] = []
        number = len(history.manifests(chain.events)) + 1
        try:
            with atomic.explained(f"publishing {version_id(number)}"):
                version = Version(
                    id=version_id(number),
                    parent=chain.events[-1].head if chain.events else "",
                    operation=operation,
                    blobs={name: self._put(name, blobs[name], new_files) for name in sorted(blobs)},
                    facts=tuple(facts),
                    added=tuple(added),
                    removed=tuple(removed),
                    superseded=tuple(superseded),
                    created=timestamp(self._clock()),
                    author=author,
                    message=message,
                    tools=dict(tools or {}),
                    config=sha256(self._layout.config.read_bytes()).hexdigest(),
                    extra=dict(extra or {}),
                )
                data = version.to_bytes()
                atomic.sync_directory(self._layout.blobs)
                manifest = self._layout.manifest(version.id)
                new_files.append(manifest)
                atomic.write(manifest, data)
                atomic.sync_directory(self._layout.versions)
                self._commit(
                    Event(
                        seq=len(chain.events) + 1,
                        at=version.created,
                        who=author,
                        operation=operation,
                        version=version.id,
                        head=version.id,
                        message=message,
                        added=version.added,
                        removed=version.removed,
                        superseded=version.superseded,
                        manifest=sha256(data).hexdigest(),
                        previous=chain.tip,
                    )
                )
        except BaseException:
            # Whether the change was committed is read from the file: Ctrl-C may come just after.
            if self._layout.history.stat().st_size <= chain.size:
                for path in new_files:
                    atomic.discard(path)
            raise
        return Version.from_bytes(data)

    def move_head(self, version: Version | str, *, author: str = "", message: str = "") -> Version:
        """Make `version`, or the one that a ref means, current; does nothing where it is
        already."""
        chain = self._chain()
        target = self._find_version(version.id if isinstance(version, Version) else version)
        if chain.events[-1].head != target.id:
            self._commit(self._pointer(chain, "checkout", target.id, target.id, author, message))
        return target

    def tag(
        self,
        name: str,
        version: Version | str = "HEAD",
        *,
        move: bool = False,
        author: str = "",
        message: str = "",
    ) -> Version:
        """Name a version. Raises EditorError for a bad name, or one in use unless `move`."""
        if not _TAG.fullmatch(name) or NUMBER.fullmatch(name) or name.upper() == "HEAD":
            raise EditorError(
                f"{name!r} cannot be a tag",
                "a tag starts with a letter, holds letters, digits, `.`, `_` and `-`, and is "
                "neither HEAD nor a version number",
            )
        chain = self._chain()
        target = self._find_version(version.id if isinstance(version, Version) else version)
        tags = history.tags(chain.events)
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
        head = chain.events[-1].head
        self._commit(self._pointer(chain, "tag", target.id, head, author, message, name))
        return target

    def _pointer(
        self,
        chain: Chain,
        operation: str,
        version: str,
        head: str,
        author: str,
        message: str,
        tag: str = "",
    ) -> Event:
        """An event that publishes no version."""
        return Event(
            seq=len(chain.events) + 1,
            at=timestamp(self._clock()),
            who=author,
            operation=operation,
            version=version,
            head=head,
            message=message,
            tag=tag,
            previous=chain.tip,
        )

    def _put(self, name: str, content: bytes | Digest, new_files: list[Path]) -> Digest:
        """Store a blob, unless the store has it; a new file is added to `new_files`."""
        if not _BLOB_NAME.fullmatch(name):
            raise EditorError(f"{name!r} cannot name a blob")
        if isinstance(content, str):
            if not (DIGEST.fullmatch(content) and self._layout.blob(content).exists()):
                raise EditorError(f"blob {name!r}: the store holds no blob {content[:12]}")
            return content
        digest = Digest(sha256(content).hexdigest())
        path = self._layout.blob(digest)
        # Other bytes under this name are damage, which writing the right ones mends.
        if not path.exists():
            new_files.append(path)
            atomic.write(path, content)
        elif path.read_bytes() != content:
            atomic.write(path, content)
        return digest

    def _commit(self, event: Event) -> None:
        """Append the event's line, which commits it, and then bring the refs up to date."""
        line = event.to_line()
        chain = self._state.plus(event, line)
        with atomic.explained("recording in the history"):
            # Refs are staged first: once the line is written, nothing may need room on the disk.
            staged: list[tuple[Path, Path]] = []
            try:
                if event.tag:
                    path = self._layout.tag(event.tag)
                    staged.append((atomic.stage(path, f"{event.version}\n".encode()), path))
                head = Anchor(event.head, event.seq, chain.tip).to_bytes()
                staged.append((atomic.stage(self._layout.head, head), self._layout.head))
                atomic.append(self._layout.history, line + b"\n")
            except BaseException:
                for temp, _ in staged:
                    atomic.discard(temp)
                raise
        self._state, self._settled = chain, False
        # The change has happened: a ref that cannot be written now is written by the next writer.
        with suppress(OSError):
            for temp, path in staged:
                atomic.replace(temp, path)
            atomic.sync_directory(self._layout.refs)
            self._settled = True

    def _chain(self) -> Chain:
        """The history as it is now. Raises EditorError after the lock was given back."""
        if not self._open:
            raise EditorError("this transaction is over")
        if not self._settled or self._layout.history.stat().st_size != self._state.size:
            self._state, self._settled = self._recovered(), True  # a call was cut off half-way
        return self._state

    def _recovered(self) -> Chain:
        """Remove what a killed writer left, and return the history; raises EditorError on
        damage."""
        anchor, chain = history.read(self._layout)
        problems = history.check(chain, anchor)
        if anchor is None and not problems:
            # Without HEAD nothing vouches for the end of the history; the folders must agree.
            beyond = self._layout.manifest(version_id(len(history.manifests(chain.events)) + 2))
            if chain.torn or beyond.exists():
                problems = ["refs/HEAD: is missing and the history is not whole"]
        if problems:
            raise EditorError(problems[0], DAMAGED)
        with atomic.explained("recovering the store"):
            if chain.torn:
                atomic.truncate(self._layout.history, chain.size)
            if chain.events and (anchor is None or anchor.seq < len(chain.events)):
                behind = chain.events[anchor.seq if anchor else 0 :]
                for name, target in history.tags(behind).items():
                    atomic.write(self._layout.tag(name), f"{target}\n".encode())
                head = Anchor(chain.events[-1].head, len(chain.events), chain.tip)
                atomic.write(self._layout.head, head.to_bytes())
                atomic.sync_directory(self._layout.refs)
        return Chain(chain.events, chain.digests, chain.size, 0, ())
