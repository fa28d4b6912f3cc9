"""Versions of what a model believes, on disk: content-addressed blobs under immutable manifests.

A change is published in this order, each step synced before the next: blobs, manifest, history
line, refs. **The history line is the commit point.** Before it nothing has happened; after it
everything has, and refs, which only repeat what the history says, are brought forward by the next
writer if a kill left them behind. Readers take no lock and write nothing.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path

from editcli import atomic, history, integrity
from editcli.history import Anchor, Chain, Event
from editcli.integrity import Problem
from editcli.journal import Journal
from editcli.layout import Layout, find_store, new_store_path
from editcli.lock import locked
from editcli.versions import Digest, StoreConfig, Version, timestamp, version_id
from editors import EditorError

__all__ = [
    "Digest",
    "Event",
    "Problem",
    "Store",
    "StoreConfig",
    "Transaction",
    "Version",
    "find_store",
    "new_store_path",
]

Clock = Callable[[], datetime]

_NUMBER = re.compile(r"v?0*([1-9][0-9]*)")
_STEPS = re.compile(r"(.*?)(?:~([0-9]*))?", re.DOTALL)
_TAG = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_BLOB_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_DAMAGED = "`editcli verify` lists the damage"


def utc_now() -> datetime:
    """The time in UTC."""
    return datetime.now(UTC)


class Store:
    """A store opened for reading; `writing()` opens it for a change.

    Every call reads the disk anew, so that it sees what other processes committed. All calls raise
    EditorError when what they need is damaged; `verify` tells what is.
    """

    def __init__(self, path: Path, config: StoreConfig, clock: Clock = utc_now) -> None:
        self.path = path
        self.config = config
        self.journal = Journal(Layout(path).journal)
        self._layout = Layout(path)
        self._clock = clock

    @classmethod
    def create(
        cls,
        path: Path,
        config: StoreConfig,
        *,
        author: str = "",
        message: str = "",
        tools: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
        clock: Clock = utc_now,
    ) -> Store:
        """Make a store at `path` whose first version, v0001, holds no fact and no blob.

        It appears at once and whole. Raises EditorError when something is there already.
        """
        if Layout(path).holds_store():
            raise EditorError(f"{path} already holds a store", "use it, or name another `--store`")
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise EditorError(f"{path} is not an empty folder", "name another `--store`")
        text = config.to_toml().encode()
        fresh = path.parent / f"{path.name}.new-{secrets.token_hex(4)}"
        layout = Layout(fresh)
        try:
            with atomic.explained(f"making a store at {path}"):
                for folder in layout.folders:
                    folder.mkdir(parents=True)
                atomic.write(layout.config, text)
                atomic.write(layout.history, b"")
                first = Transaction(cls(fresh, config, clock))
                first.publish("init", {}, author=author, message=message, tools=tools, extra=extra)
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
        """The store at `path`. Raises EditorError when there is none, or none this code reads."""
        layout = Layout(path)
        if not layout.holds_store():
            raise EditorError(f"no store at {path}", "`editcli init` makes one")
        with atomic.explained("opening the store"):
            data = layout.config.read_bytes()
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise EditorError("config.toml is not UTF-8", _DAMAGED) from error
        return cls(path, StoreConfig.from_toml(text), clock)

    def head(self) -> Version:
        """The current version."""
        chain = self._chain()
        return self._load(chain.events[-1].head, history.manifests(chain.events))

    def version(self, ref: str = "HEAD") -> Version:
        """The version that `ref` means: an id, its number, a tag or HEAD, then `~N` for ancestors.

        Raises EditorError with the nearest known name when there is none such.
        """
        chain = self._chain()
        match = _STEPS.fullmatch(ref)
        assert match is not None  # the pattern matches every text
        digests = history.manifests(chain.events)
        version = self._load(_resolve(chain, match[1], ref), digests)
        for _ in range(int(match[2] or 1) if match[2] is not None else 0):
            if not version.parent:
                raise EditorError(f"{ref!r} goes back beyond the first version")
            version = self._load(version.parent, digests)
        return version

    def versions(self) -> tuple[Version, ...]:
        """All versions, oldest first."""
        digests = history.manifests(self._chain().events)
        return tuple(self._load(name, digests) for name in digests)

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
            raise EditorError(f"blob {name!r} ({path.name[:12]}) is damaged", _DAMAGED)
        return data

    def blob_path(self, version: Version | str, name: str) -> Path:
        """Where a blob lies, unchecked, for readers that map files. Raises as `read` does."""
        if isinstance(version, str):
            version = self.version(version)
        if name not in version.blobs:
            close = get_close_matches(name, version.blobs, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "`editcli show` lists them"
            raise EditorError(f"version {version.id} has no blob {name!r}", hint)
        path = self._layout.blob(version.blobs[name])
        if not path.is_file():
            raise EditorError(f"blob {name!r} of {version.id} is missing", _DAMAGED)
        return path

    @contextmanager
    def writing(self, command: str = "editcli", wait: float = 0.0) -> Iterator[Transaction]:
        """Hold the store's lock and change it; `command` is shown to whoever is kept out.

        Each call on the transaction commits by itself. What a killed process left is tidied first.
        `wait` is in seconds. Raises EditorError when another process holds the lock, or when the
        history is damaged.
        """
        layout = self._layout
        with locked(layout.lock, layout.holder, command, self._clock(), wait):
            for folder in (layout.root, layout.blobs, layout.versions, layout.refs):
                atomic.sweep(folder)
            transaction = Transaction(self)
            try:
                yield transaction
            finally:
                transaction.close()

    def verify(self, fingerprint: str | None = None) -> list[Problem]:
        """Everything wrong with the store; empty when it is sound. See `integrity.verify`."""
        with atomic.explained("verifying the store"):
            return integrity.verify(self._layout, self.config.fingerprint, fingerprint)

    def unreferenced_blobs(self) -> dict[Digest, int]:
        """Blobs that no version uses, with their sizes in bytes.

        Raises EditorError when any manifest is damaged, for then nobody knows what it uses.
        """
        used = {digest for version in self.versions() for digest in version.blobs.values()}
        with atomic.explained("listing blobs"):
            return {
                Digest(path.name): path.stat().st_size
                for path in sorted(self._layout.blobs.iterdir())
                if _DIGEST.fullmatch(path.name) and path.name not in used
            }

    def _chain(self) -> Chain:
        """The history, sound and not empty. Raises EditorError otherwise."""
        anchor, chain = _read_chain(self._layout)
        if not chain.events:
            raise EditorError("history.jsonl holds no version", _DAMAGED)
        if problems := history.check(chain, anchor):
            raise EditorError(problems[0], _DAMAGED)
        return chain

    def _load(self, name: str, digests: Mapping[str, str]) -> Version:
        """Read a manifest and check it against the hash that the history records."""
        with atomic.explained(f"reading version {name}"):
            data = self._layout.manifest(name).read_bytes()
        if sha256(data).hexdigest() != digests.get(name):
            raise EditorError(f"the manifest of {name} is damaged", _DAMAGED)
        return Version.from_bytes(data)


class Transaction:
    """The right to change a store, while its lock is held; got from `Store.writing`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._layout = store._layout
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

        `blobs` is the whole content: bytes, or the digest of a blob the store already has. Equal
        bytes are stored once. Raises EditorError, and leaves the store as it was, when the disk
        refuses or a digest is unknown.
        """
        chain = self._chain()
        made: list[Path] = []
        number = len(history.manifests(chain.events)) + 1
        try:
            with atomic.explained(f"publishing {version_id(number)}"):
                version = Version(
                    id=version_id(number),
                    parent=chain.events[-1].head if chain.events else "",
                    operation=operation,
                    blobs={name: self._put(name, blobs[name], made) for name in sorted(blobs)},
                    facts=tuple(facts),
                    added=tuple(added),
                    removed=tuple(removed),
                    superseded=tuple(superseded),
                    created=timestamp(self._store._clock()),
                    author=author,
                    message=message,
                    tools=dict(tools or {}),
                    config=sha256(self._layout.config.read_bytes()).hexdigest(),
                    extra=dict(extra or {}),
                )
                data = version.to_bytes()
                atomic.sync_directory(self._layout.blobs)
                manifest = self._layout.manifest(version.id)
                made.append(manifest)
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
            # The file decides, not how far we got: Ctrl-C may strike just after the commit.
            if self._layout.history.stat().st_size <= chain.size:
                for path in made:
                    atomic.discard(path)
            raise
        return Version.from_bytes(data)

    def move_head(self, version: Version | str, *, author: str = "", message: str = "") -> Version:
        """Make `version` (or what a ref means) the current one; where it is already, do nothing."""
        chain = self._chain()
        target = self._store.version(version.id if isinstance(version, Version) else version)
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
        if not _TAG.fullmatch(name) or _NUMBER.fullmatch(name) or name.upper() == "HEAD":
            raise EditorError(
                f"{name!r} cannot be a tag",
                "a tag starts with a letter, holds letters, digits, `.`, `_` and `-`, and is "
                "neither HEAD nor a version number",
            )
        chain = self._chain()
        target = self._store.version(version.id if isinstance(version, Version) else version)
        known = history.tags(chain.events)
        for other in known:
            if other != name and other.lower() == name.lower():
                raise EditorError(f"tag {name!r} differs from {other!r} only in its case")
        if known.get(name) == target.id:
            return target
        if name in known and not move:
            raise EditorError(f"tag {name!r} already names {known[name]}", "`--force` moves it")
        head = chain.events[-1].head
        self._commit(self._pointer(chain, "tag", target.id, head, author, message, name))
        return target

    def drop_unreferenced(self) -> dict[Digest, int]:
        """Delete the blobs that no version uses; returns them with their sizes in bytes."""
        self._chain()
        doomed = self._store.unreferenced_blobs()
        with atomic.explained("removing blobs"):
            for digest in doomed:
                atomic.discard(self._layout.blob(digest))
            atomic.sync_directory(self._layout.blobs)
        return doomed

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
            at=timestamp(self._store._clock()),
            who=author,
            operation=operation,
            version=version,
            head=head,
            message=message,
            tag=tag,
            previous=chain.tip,
        )

    def _put(self, name: str, content: bytes | Digest, made: list[Path]) -> Digest:
        """See to it that a blob is there; a file this made is added to `made`."""
        if not _BLOB_NAME.fullmatch(name):
            raise EditorError(f"{name!r} cannot name a blob")
        if isinstance(content, str):
            if not (_DIGEST.fullmatch(content) and self._layout.blob(content).exists()):
                raise EditorError(f"blob {name!r}: the store holds no blob {content[:12]}")
            return content
        digest = Digest(sha256(content).hexdigest())
        path = self._layout.blob(digest)
        # Equal bytes are kept; others under this name are damage, and here is the cure.
        if not path.exists():
            made.append(path)
            atomic.write(path, content)
        elif path.read_bytes() != content:
            atomic.write(path, content)
        return digest

    def _commit(self, event: Event) -> None:
        """Append the event's line, the commit point, then bring the refs forward."""
        line = event.to_line()
        chain = self._state.plus(event, line)
        with atomic.explained("recording in the history"):
            # Refs are staged first: once the line stands, nothing may need room on the disk.
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
        # From here on the change has happened: a ref that cannot follow now follows later.
        with suppress(OSError):
            for temp, path in staged:
                atomic.replace(temp, path)
            atomic.sync_directory(self._layout.refs)
            self._settled = True

    def _chain(self) -> Chain:
        """The history as it stands now. Raises EditorError after the lock was given back."""
        if not self._open:
            raise EditorError("this transaction is over")
        if not self._settled or self._layout.history.stat().st_size != self._state.size:
            self._state, self._settled = self._recovered(), True  # a call was cut off half-way
        return self._state

    def _recovered(self) -> Chain:
        """Tidy up after a killed writer and return the history; damage is refused, not mended."""
        anchor, chain = _read_chain(self._layout)
        problems = history.check(chain, anchor)
        if anchor is None and not problems:
            # Without HEAD nothing vouches for the end of the history; the folders must agree.
            beyond = self._layout.manifest(version_id(len(history.manifests(chain.events)) + 2))
            if chain.torn or beyond.exists():
                problems = ["refs/HEAD: is missing and the history is not whole"]
        if problems:
            raise EditorError(problems[0], _DAMAGED)
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


def _read_chain(layout: Layout) -> tuple[Anchor | None, Chain]:
    """HEAD's anchor and the history, in this order: the history may only be ahead."""
    with atomic.explained("reading the history"):
        try:
            anchor = Anchor.from_bytes(layout.head.read_bytes())
        except FileNotFoundError:
            anchor = None
        except ValueError as error:
            raise EditorError(str(error), _DAMAGED) from error
        return anchor, history.parse(layout.history.read_bytes())


def _resolve(chain: Chain, name: str, ref: str) -> str:
    """The id of the version called `name`; `ref` is what the user typed."""
    ids = history.manifests(chain.events)
    names = {"HEAD": chain.events[-1].head, **history.tags(chain.events)}
    if number := _NUMBER.fullmatch(name):
        names.setdefault(name, version_id(int(number[1])))
    found = names.get(name)
    if found in ids:
        return found
    nearest = {known.lower(): known for known in (*ids, *names) if known != name}
    close = get_close_matches(name.lower(), nearest, n=1)
    suggestion = list(ids)[-1] if number else nearest[close[0]] if close else ""
    hint = f"did you mean `{suggestion}`? " if suggestion else ""
    raise EditorError(f"no version is called {ref!r}", f"{hint}`editcli log` lists the versions")
