"""The journal: what operations have finished so far, so that they can go on after a kill.

Trainings do not hold the store's lock, so several of them, and a command that writes, may be at
work here at the same time. An entry is whole or absent, and its key is a digest of all that it
depends on, so whoever finds one can use it. Each training removes its own entries only.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout

from editcli.store.files import atomic

_KEY = re.compile("[0-9a-f]{2,64}")
_RUN = re.compile("run-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Origin:
    """The facts (ids) that an entry was made from: those that the store had when it was written,
    and others."""

    stored: frozenset[str]
    new: frozenset[str] = frozenset()


class Journal:
    """Entries of bytes, each under a digest of what it depends on, in a file of `folder`.

    An entry is written whole or not at all, with a checksum over its key and its bytes. A damaged
    entry counts as absent, since its content can be computed again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> bytes | None:
        """The bytes under `key`; None where absent or damaged."""
        try:
            entry = atomic.read(self._folder / key) or b""
        except OSError:
            return None
        checksum, _, rest = entry.partition(b"\n")
        return rest.partition(b"\n")[2] if checksum == _checksum(key, rest) else None

    def put(self, key: str, payload: bytes, origin: Origin | None = None) -> None:
        """Keep `payload` under `key`, in place of an older entry. ``origin``: None if it is not
        known.

        Raises EditorError when the disk refuses; an older entry then stays.
        """
        facts = None if origin is None else [sorted(origin.stored), sorted(origin.new)]
        rest = json.dumps(facts).encode() + b"\n" + payload
        with atomic.explained("writing to the journal"):
            atomic.write(self._folder / key, _checksum(key, rest) + b"\n" + rest)
            atomic.sync_directory(self._folder)

    def entries(self) -> list[Path]:
        """The files of all entries. Raises EditorError where the journal cannot be read."""
        return [path for path in self._files() if _KEY.fullmatch(path.name)]

    def older_than(self, seconds: float) -> list[Path]:
        """The files of the entries that were written longer ago; none while a training is under
        way, which may need them."""
        before = time.time() - seconds
        with atomic.explained("reading the journal"):
            old = [path for path in self.entries() if path.lstat().st_mtime <= before]
        return [] if self.in_use() else sorted(old)

    def remove(self, keys: Collection[str]) -> None:
        """Remove these entries. Raises EditorError when the disk refuses."""
        with atomic.explained("clearing the journal"):
            for key in keys:
                atomic.discard(self._folder / key)
            atomic.sync_directory(self._folder)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Inside the block, the journal is in use: other processes remove nothing that is old.

        Raises EditorError when the disk refuses.
        """
        with ExitStack() as held:
            with atomic.explained("opening the journal"):
                self._folder.mkdir(exist_ok=True)  # git keeps no empty folder
                while True:
                    file = self._folder / f"run-{secrets.token_hex(8)}"
                    with ExitStack() as trying:
                        trying.enter_context(FileLock(file, timeout=-1))
                        if file.exists():  # else somebody took it for that of a dead process
                            trying.callback(atomic.discard, file)
                            held.push(trying.pop_all())
                            break
            yield

    def in_use(self) -> bool:
        """Whether a process is inside :meth:`used`. What is left of dead ones is removed."""
        found = False
        for file in self._files():
            if not _RUN.fullmatch(file.name) or file.is_symlink() or not file.is_file():
                continue
            try:
                with FileLock(file, timeout=0):
                    atomic.discard(file)
            except (Timeout, OSError):  # where nothing can be written, nobody knows
                found = True
        return found

    def unfinished(self) -> list[Path]:
        """The temporary files of entries that are being written, or were when a process died."""
        return [path for path in self._files() if atomic.is_temporary(path)]

    def sweep(self) -> None:
        """Remove what killed processes left besides entries, once no other one is at work."""
        left = self.unfinished()  # in this order: who is at work said so before it wrote
        if not self.in_use():
            for path in left:
                atomic.discard(path)

    def origins(self) -> Iterator[tuple[Path, Origin | None]]:
        """The files of all entries, each with its origin; None if it is not known."""
        for path in self.entries():
            try:
                with atomic.opened(path) as file:
                    file.readline()
                    stored, new = json.loads(file.readline())
                yield path, Origin(frozenset(stored), frozenset(new))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, TypeError, RecursionError):
                yield path, None

    def _files(self) -> list[Path]:
        if not self._folder.is_dir() or self._folder.is_symlink():
            return []
        with atomic.explained("reading the journal"):
            return sorted(self._folder.iterdir())


def _checksum(key: str, rest: bytes) -> bytes:
    return sha256(key.encode() + b"\n" + rest).hexdigest().encode()
