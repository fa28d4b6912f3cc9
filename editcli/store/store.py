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
from contextlib import closing, contextmanager
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import Unpack

from editcli.errors import UnknownVersion
from editcli.store import atomic, history, integrity
from editcli.store.history import DAMAGED, Chain, Event
from editcli.store.integrity import Problem
from editcli.store.journal import Journal
from editcli.store.layout import Layout
from editcli.store.lock import locked
from editcli.store.records import NUMBER, About, StoreConfig, Version, now, version_id
from editcli.store.transaction import Transaction
from editors import EditorError

_STEPS = re.compile(r"(.*?)(?:~([0-9]*))?", re.DOTALL)


class Store:
    """A store opened for reading; `writing()` opens it for a change.

    Every call reads the disk anew, so it sees what other processes committed. All calls raise
    EditorError where a file that they need is damaged; `verify` lists the damage.
    """

    def __init__(self, path: Path, config: StoreConfig) -> None:
        self.path = path
        self.config = config
        self._layout = Layout(path)
        self.journal = Journal(self._layout.journal)

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
        *,
        blobs: Mapping[str, bytes] | None = None,
        **about: Unpack[About],
    ) -> Store:
        """Make a store at `path` whose first version, v0001, holds `blobs` and no fact.

        The store appears at once and whole. Raises EditorError as `require_free`.
        """
        cls.require_free(path)
        fresh = path.parent / f"{path.name}.new-{secrets.token_hex(4)}"
        layout = Layout(fresh)
        try:
            with atomic.explained(f"making a store at {path}"):
                for folder in layout.folders:
                    folder.mkdir(parents=True)
                atomic.write(layout.config, config.to_toml())
                atomic.write(layout.history, b"")
                first = Transaction(layout, cls(fresh, config).version)
                first.publish("init", blobs or {}, **about)
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
        """The store at `path`. Raises EditorError where there is none, or its format is another."""
        with atomic.explained("opening the store"):
            data = Layout(path).config.read_bytes()
        return cls(path, StoreConfig.from_toml(data))

    def head(self) -> Version:
        """The current version."""
        return self.version("HEAD")

    def version(self, ref: str = "HEAD") -> Version:
        """The version that `ref` means: an id, its number, a tag or HEAD, then `~N` for ancestors.

        Raises EditorError, whose hint is the nearest name, where there is no such version.
        """
        chain = self._chain()
        match = _STEPS.fullmatch(ref)
        assert match is not None  # the pattern matches every text
        steps = 0 if match[2] is None else int(match[2] or 1)
        line = self._line(_resolve(chain, match[1], ref), history.manifests(chain.events))
        version = next((version for back, version in enumerate(line) if back == steps), None)
        if version is None:
            raise EditorError(
                f"{ref!r} goes back beyond the first version", "`editcli log` lists the versions"
            )
        return version

    def versions(self) -> tuple[Version, ...]:
        """All versions, oldest first."""
        digests = history.manifests(self._chain().events)
        return tuple(self._load(name, digests) for name in digests)

    def ancestry(self, version: Version) -> tuple[Version, ...]:
        """A version and its ancestors, newest first."""
        return tuple(self._line(version.id, history.manifests(self._chain().events)))

    def history(self) -> tuple[Event, ...]:
        """All events, oldest first."""
        return self._chain().events

    def refs(self) -> dict[str, str]:
        """HEAD and every tag, each with the id of its version."""
        events = self._chain().events
        return {"HEAD": events[-1].head, **dict(sorted(history.tags(events).items()))}

    def read(self, version: Version | str, name: str) -> bytes:
        """The bytes of a blob, checked against its hash; `version` may be a ref.

        Raises EditorError when the blob is missing or damaged.
        """
        path = self.blob_path(version, name)
        with atomic.explained(f"reading {name}"):
            data = path.read_bytes()
        if sha256(data).hexdigest() != path.name:
            raise EditorError(f"blob {name!r} ({path.name[:12]}) is damaged", DAMAGED)
        return data

    def blob_path(self, version: Version | str, name: str) -> Path:
        """The path of a blob, whose hash is not checked. Raises EditorError where it is missing."""
        if isinstance(version, str):
            version = self.version(version)
        path = self._layout.blobs / version.blobs[name]
        if not path.is_file():
            raise EditorError(f"blob {name!r} of {version.id} is missing", DAMAGED)
        return path

    @contextmanager
    def writing(self, command: str = "editcli") -> Iterator[Transaction]:
        """Hold the store's lock and change the store; the lock shows `command` to other processes.

        Each call on the transaction commits by itself. What a killed process left is removed first.
        Raises EditorError when another process holds the lock, or when the history is damaged.
        """
        layout = self._layout
        with locked(layout.lock, command, now()):
            for folder in (layout.root, layout.blobs, layout.versions, layout.refs):
                atomic.sweep(folder)
            with atomic.explained("opening the journal"):
                layout.journal.mkdir(exist_ok=True)  # git keeps no empty folder
            with closing(Transaction(layout, self.version)) as transaction:
                yield transaction

    def verify(self) -> list[Problem]:
        """Everything that is wrong with the store; see `integrity.verify`."""
        with atomic.explained("verifying the store"):
            return list(integrity.verify(self._layout))

    def _chain(self) -> Chain:
        """The history, sound and not empty. Raises EditorError otherwise."""
        chain = history.read(self._layout)
        if not chain.events:
            raise EditorError("history.jsonl holds no version", DAMAGED)
        return chain

    def _line(self, name: str, digests: Mapping[str, str]) -> Iterator[Version]:
        """A version and its ancestors, newest first."""
        while name:
            version = self._load(name, digests)
            yield version
            name = version.parent

    def _load(self, name: str, digests: Mapping[str, str]) -> Version:
        """Read a manifest and check it against the hash that the history records."""
        with atomic.explained(f"reading version {name}"):
            data = atomic.read(self._layout.manifest(name))
        if data is None:
            raise EditorError(f"the manifest of {name} is missing", DAMAGED)
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
