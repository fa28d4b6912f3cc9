"""Versions of what a model believes, on disk: content-addressed blobs under immutable manifests.

A change is published in this order, each step synced before the next: blobs, manifest, history
line, refs. **The history line is the commit point.** Before it, nothing has happened; after it,
everything has. Refs only repeat the history: where a kill left them behind, the next writer brings
them up to date. Readers take no lock and write nothing.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path

from editcli.errors import UnknownVersion
from editcli.store import atomic, history, integrity
from editcli.store.history import DAMAGED, Chain, Event
from editcli.store.integrity import Problem
from editcli.store.journal import Journal
from editcli.store.layout import Layout
from editcli.store.lock import locked
from editcli.store.records import (
    NUMBER,
    RESTORE_CONFIG,
    StoreConfig,
    Version,
    version_id,
)
from editcli.store.transaction import Clock, Transaction
from editors import EditorError

_STEPS = re.compile(r"(.*?)(?:~([0-9]*))?", re.DOTALL)


def utc_now() -> datetime:
    """The time in UTC."""
    return datetime.now(UTC)


class Store:
    """A store opened for reading; `writing()` opens it for a change.

    Every call reads the disk anew, so it sees what other processes committed. All calls raise
    EditorError where a file that they need is damaged; `verify` lists the damage.
    """

    def __init__(self, path: Path, config: StoreConfig, clock: Clock = utc_now) -> None:
        self.path = path
        self.config = config
        self.journal = Journal(Layout(path).journal)
        self._layout = Layout(path)
        self._clock = clock

    @staticmethod
    def require_free(path: Path) -> None:
        """Raise EditorError where `path` exists and is not an empty folder."""
        if Layout(path).holds_store():
            raise EditorError(f"{path} already holds a store", "use it, or name another `--store`")
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise EditorError(f"{path} is not an empty folder", "name another `--store`")

    @classmethod
    def create(
        cls,
        path: Path,
        config: StoreConfig,
        *,
        blobs: Mapping[str, bytes] | None = None,
        author: str = "",
        message: str = "",
        tools: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
        clock: Clock = utc_now,
    ) -> Store:
        """Make a store at `path` whose first version, v0001, holds `blobs` and no fact.

        The store appears at once and whole. Raises EditorError as `require_free`.
        """
        cls.require_free(path)
        text = config.to_toml().encode()
        fresh = path.parent / f"{path.name}.new-{secrets.token_hex(4)}"
        layout = Layout(fresh)
        try:
            with atomic.explained(f"making a store at {path}"):
                for folder in layout.folders:
                    folder.mkdir(parents=True)
                atomic.write(layout.config, text)
                atomic.write(layout.history, b"")
                first = Transaction(layout, clock, cls(fresh, config, clock).version)
                first.publish(
                    "init", blobs or {}, author=author, message=message, tools=tools, extra=extra
                )
                for folder in (*layout.folders, fresh):
                    atomic.sync_directory(folder)
                if path.exists():
                    path.rmdir()  # empty, as seen above; a rename onto a folder is not portable
                atomic.replace(fresh, path)
                atomic.sync_directory(path.parent)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        return cls(path, config, clock)

    @classmethod
    def open(cls, path: Path, *, clock: Clock = utc_now) -> Store:
        """The store at `path`. Raises EditorError where there is none, or its format is another."""
        layout = Layout(path)
        if not layout.holds_store():
            raise EditorError(f"no store at {path}", "`editcli init` makes one")
        with atomic.explained("opening the store"):
            data = layout.config.read_bytes()
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise EditorError("config.toml is not UTF-8", RESTORE_CONFIG) from error
        return cls(path, StoreConfig.from_toml(text), clock)

    def head(self) -> Version:
        """The current version."""
        chain = self._chain()
        return self._load(chain.events[-1].head, history.manifests(chain.events))

    def version(self, ref: str = "HEAD") -> Version:
        """The version that `ref` means: an id, its number, a tag or HEAD, then `~N` for ancestors.

        Raises EditorError, whose hint is the nearest name, where there is no such version.
        """
        chain = self._chain()
        match = _STEPS.fullmatch(ref)
        assert match is not None  # the pattern matches every text
        digests = history.manifests(chain.events)
        version = self._load(_resolve(chain, match[1], ref), digests)
        for _ in range(int(match[2] or 1) if match[2] is not None else 0):
            if not version.parent:
                raise EditorError(
                    f"{ref!r} goes back beyond the first version",
                    "`editcli log` lists the versions",
                )
            version = self._load(version.parent, digests)
        return version

    def versions(self) -> tuple[Version, ...]:
        """All versions, oldest first."""
        digests = history.manifests(self._chain().events)
        return tuple(self._load(name, digests) for name in digests)

    def ancestry(self, version: Version) -> tuple[Version, ...]:
        """A version and its ancestors, newest first."""
        by_id = {v.id: v for v in self.versions()}
        ancestry = [version]
        while ancestry[-1].parent:
            ancestry.append(by_id[ancestry[-1].parent])
        return tuple(ancestry)

    def history(self) -> tuple[Event, ...]:
        """All events, oldest first."""
        return self._chain().events

    def refs(self) -> dict[str, str]:
        """HEAD and every tag, each with the id of its version."""
        events = self._chain().events
        return {"HEAD": events[-1].head, **dict(sorted(history.tags(events).items()))}

    def read(self, version: Version | str, name: str) -> bytes:
        """The bytes of a blob, checked against its hash; `version` may be a ref.

        Raises EditorError when the version has no such blob or the blob is missing or damaged.
        """
        path = self.blob_path(version, name)
        with atomic.explained(f"reading {name}"):
            data = path.read_bytes()
        if sha256(data).hexdigest() != path.name:
            raise EditorError(f"blob {name!r} ({path.name[:12]}) is damaged", DAMAGED)
        return data

    def blob_path(self, version: Version | str, name: str) -> Path:
        """The path of a blob, whose hash is not checked. Raises as `read` does."""
        if isinstance(version, str):
            version = self.version(version)
        if name not in version.blobs:
            close = get_close_matches(name, version.blobs, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "`editcli show` lists them"
            raise EditorError(f"version {version.id} has no blob {name!r}", hint)
        path = self._layout.blob(version.blobs[name])
        if not path.is_file():
            raise EditorError(f"blob {name!r} of {version.id} is missing", DAMAGED)
        return path

    @contextmanager
    def writing(self, command: str = "editcli", wait: float = 0.0) -> Iterator[Transaction]:
        """Hold the store's lock and change the store; the lock shows `command` to other processes.

        Each call on the transaction commits by itself. What a killed process left is removed first.
        `wait`: seconds to wait for the lock. Raises EditorError when another process holds the
        lock, or when the history is damaged.
        """
        layout = self._layout
        with locked(layout.lock, layout.holder, command, self._clock(), wait):
            for folder in (layout.root, layout.blobs, layout.versions, layout.refs):
                atomic.sweep(folder)
            with atomic.explained("opening the journal"):
                layout.journal.mkdir(exist_ok=True)  # git keeps no empty folder
            transaction = Transaction(layout, self._clock, self.version)
            try:
                yield transaction
            finally:
                transaction.close()

    def verify(self, fingerprint: str | None = None) -> list[Problem]:
        """Everything that is wrong with the store; see `integrity.verify`."""
        with atomic.explained("verifying the store"):
            return integrity.verify(self._layout, self.config.fingerprint, fingerprint)

    def _chain(self) -> Chain:
        """The history, sound and not empty. Raises EditorError otherwise."""
        anchor, chain = history.read(self._layout)
        if not chain.events:
            raise EditorError("history.jsonl holds no version", DAMAGED)
        if problems := history.check(chain, anchor):
            raise EditorError(problems[0], DAMAGED)
        return chain

    def _load(self, name: str, digests: Mapping[str, str]) -> Version:
        """Read a manifest and check it against the hash that the history records."""
        with atomic.explained(f"reading version {name}"):
            try:
                data = self._layout.manifest(name).read_bytes()
            except FileNotFoundError as error:
                raise EditorError(f"the manifest of {name} is missing", DAMAGED) from error
        if sha256(data).hexdigest() != digests.get(name):
            raise EditorError(f"the manifest of {name} is damaged", DAMAGED)
        return Version.from_bytes(data)


def _resolve(chain: Chain, name: str, ref: str) -> str:
    """The id of the version called `name`; `ref`: what the user typed, for the error."""
    ids = history.manifests(chain.events)
    names = {"HEAD": chain.events[-1].head, **history.tags(chain.events)}
    if number := NUMBER.fullmatch(name):
        names.setdefault(name, version_id(int(number[1])))
    version = names.get(name)
    if version in ids:
        return version
    by_lower = {candidate.lower(): candidate for candidate in (*ids, *names) if candidate != name}
    close = get_close_matches(name.lower(), by_lower, n=1)
    suggestion = list(ids)[-1] if number else by_lower[close[0]] if close else ""
    hint = f"did you mean `{suggestion}`? " if suggestion else ""
    raise UnknownVersion(f"no version is called {ref!r}", f"{hint}`editcli log` lists the versions")
