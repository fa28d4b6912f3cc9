"""The journal: what an operation has finished so far, so that it can go on after a kill."""

from __future__ import annotations

import re
import time
from hashlib import sha256
from pathlib import Path

from editcli.store.files import atomic

_KEY = re.compile("[0-9a-f]{2,64}")


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
        checksum, _, payload = entry.partition(b"\n")
        return payload if checksum == _checksum(key, payload) else None

    def put(self, key: str, payload: bytes) -> None:
        """Keep `payload` under `key`, in place of an older entry.

        Raises EditorError when the disk refuses; an older entry then stays.
        """
        with atomic.explained("writing to the journal"):
            atomic.write(self._folder / key, _checksum(key, payload) + b"\n" + payload)
            atomic.sync_directory(self._folder)

    def count(self) -> int:
        """The number of entries. Raises EditorError where the journal cannot be read."""
        if not self._folder.is_dir():
            return 0
        with atomic.explained("reading the journal"):
            return sum(bool(_KEY.fullmatch(entry.name)) for entry in self._folder.iterdir())

    def older_than(self, seconds: float) -> list[Path]:
        """The files of the entries that were written longer ago."""
        if not self._folder.is_dir():
            return []
        before = time.time() - seconds
        with atomic.explained("reading the journal"):
            entries = [path for path in self._folder.iterdir() if _KEY.fullmatch(path.name)]
            return sorted(path for path in entries if path.lstat().st_mtime <= before)

    def clear(self) -> None:
        """Remove every entry. Raises EditorError when the disk refuses."""
        with atomic.explained("clearing the journal"):
            for entry in self._folder.iterdir():
                if _KEY.fullmatch(entry.name):
                    atomic.discard(entry)
            atomic.sync_directory(self._folder)


def _checksum(key: str, payload: bytes) -> bytes:
    return sha256(key.encode() + b"\n" + payload).hexdigest().encode()
