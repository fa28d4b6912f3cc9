"""Changing a store: each call commits one event, or leaves the store as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Unpack

from editcli.store import atomic, history
from editcli.store.history import DAMAGED, Chain, Event
from editcli.store.layout import Layout
from editcli.store.records import NUMBER, TAG, About, Version, now, version_id
from editors import EditorError


class Transaction:
    """The right to change a store while its lock is held; `Store.writing` gives one."""

    def __init__(self, layout: Layout, find_version: Callable[[str], Version]) -> None:
        """``find_version``: from a ref to the version that it means."""
        self._layout = layout
        self._find_version = find_version
        self._open = True
        # The history as this transaction left it; None after a call that was cut off half-way.
        self._state: Chain | None = self._recovered()

    def close(self) -> None:
        """Give the right back; any further call raises EditorError."""
        self._open = False

    def publish(
        self,
        operation: str,
        blobs: Mapping[str, bytes | str],
        facts: Sequence[str] = (),
        **about: Unpack[About],
    ) -> Version:
        """Commit a new version, child of HEAD, and move HEAD to it.

        `blobs` is the whole content: bytes, or the digest of a blob that the store has. Equal bytes
        are stored once. Raises EditorError, and leaves the store as it was, where the disk refuses,
        or the store has no blob of a digest.
        """
        chain = self._chain()
        name = version_id(len(history.manifests(chain.events)) + 1)
        new_files: list[Path] = []
        try:
            with atomic.explained(f"publishing {name}"):
                data = Version(
                    id=name,
                    parent=chain.events[-1].head if chain.events else "",
                    operation=operation,
                    blobs={blob: self._put(blob, blobs[blob], new_files) for blob in sorted(blobs)},
                    facts=facts,
                    created=now().isoformat(),
                    config=sha256(self._layout.config.read_bytes()).hexdigest(),
                    **about,
                ).to_bytes()
                atomic.sync_directory(self._layout.blobs)
                new_files.append(self._layout.manifest(name))
                atomic.write(new_files[-1], data)
                atomic.sync_directory(self._layout.versions)
                version = Version.from_bytes(data)
                self._commit(
                    Event(
                        at=version.created,
                        who=version.author,
                        operation=operation,
                        version=name,
                        head=name,
                        message=version.message,
                        added=version.added,
                        removed=version.removed,
                        superseded=version.superseded,
                        manifest=sha256(data).hexdigest(),
                    )
                )
        except BaseException:
            # Whether the change was committed is read from the file: Ctrl-C may come just after.
            if self._layout.history.stat().st_size <= chain.size:
                for path in new_files:
                    atomic.discard(path)
            raise
        return version

    def move_head(self, ref: str, *, author: str = "", message: str = "") -> Version:
        """Make the version that `ref` means current; does nothing where it is already."""
        chain, target = self._chain(), self._find_version(ref)
        if chain.events[-1].head != target.id:
            self._point(target.id, author, message)
        return target

    def tag(
        self,
        name: str,
        ref: str = "HEAD",
        *,
        move: bool = False,
        author: str = "",
        message: str = "",
    ) -> Version:
        """Name a version. Raises EditorError for a bad name, or one in use unless `move`."""
        if not TAG.fullmatch(name) or NUMBER.fullmatch(name) or name.upper() == "HEAD":
            raise EditorError(
                f"{name!r} cannot be a tag",
                "a tag starts with a letter, holds letters, digits, `.`, `_` and `-`, and is "
                "neither HEAD nor a version number",
            )
        chain, target = self._chain(), self._find_version(ref)
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
        self._point(target.id, author, message, name)
        return target

    def _point(self, version: str, who: str, message: str, tag: str = "") -> None:
        """Commit that `version` has the name `tag`, or without one, that it is current."""
        self._commit(
            Event(
                at=now().isoformat(),
                who=who,
                operation="tag" if tag else "checkout",
                version=version,
                head=self._chain().events[-1].head if tag else version,
                message=message,
                tag=tag,
            )
        )

    def _put(self, name: str, content: bytes | str, new_files: list[Path]) -> str:
        """Store a blob, unless the store has it; a new file is added to `new_files`."""
        if isinstance(content, str):
            if not (self._layout.blobs / content).is_file():
                raise EditorError(f"blob {name!r}: the store holds no blob {content[:12]}")
            return content
        digest = sha256(content).hexdigest()
        path = self._layout.blobs / digest
        known = path.exists()
        if not known:
            new_files.append(path)
        # Other bytes under this name are damage, which writing the right ones mends.
        if not known or path.read_bytes() != content:
            atomic.write(path, content)
        return digest

    def _commit(self, event: Event) -> None:
        """Append the event's line, which commits it, and then bring the refs up to date."""
        before = self._chain()
        chain, line = before.plus(event)
        with atomic.explained("recording in the history"):
            # Refs are staged first: once the line is written, nothing may need room on the disk.
            staged: dict[Path, Path] = {}
            try:
                for name, data in chain.refs(len(before.events)).items():
                    path = self._layout.refs / name
                    staged[path] = atomic.stage(path, data)
                atomic.append(self._layout.history, line)
            except BaseException:
                for temp in staged.values():
                    atomic.discard(temp)
                raise
        self._state = None
        # The change has happened: a ref that cannot be written now is written by the next writer.
        with suppress(OSError):
            for path, temp in staged.items():
                atomic.replace(temp, path)
            atomic.sync_directory(self._layout.refs)
            self._state = chain

    def _chain(self) -> Chain:
        """The history as it is now. Raises EditorError after the lock was given back."""
        if not self._open:
            raise EditorError("this transaction is over")
        if self._state is None or self._layout.history.stat().st_size != self._state.size:
            self._state = self._recovered()  # a call was cut off half-way
        return self._state

    def _recovered(self) -> Chain:
        """Remove what a killed writer left, and return the history; raises EditorError on
        damage."""
        chain = history.read(self._layout)
        if not chain.vouched:
            # Without HEAD nothing vouches for the end of the history; the folders must agree.
            beyond = self._layout.manifest(version_id(len(history.manifests(chain.events)) + 2))
            if chain.torn or beyond.exists():
                raise EditorError("refs/HEAD is missing, and the history is incomplete", DAMAGED)
        with atomic.explained("recovering the store"):
            if chain.torn:
                atomic.truncate(self._layout.history, chain.size)
            if chain.vouched < len(chain.events):
                for name, data in chain.refs(chain.vouched).items():
                    atomic.write(self._layout.refs / name, data)
                atomic.sync_directory(self._layout.refs)
        return chain
