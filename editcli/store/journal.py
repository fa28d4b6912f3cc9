"""The journal: what an operation has finished so far, so that it can go on after a kill."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

from editcli.store import atomic
from editors import EditorError

_KEY = re.compile(r"[0-9a-f]{1,128}")


class Journal:
    """Entries of bytes under lower-case hexadecimal keys, one file each in `folder`.

    An entry is written whole or not at all, with a checksum over its key and its bytes. A damaged
    entry counts as absent, since its content can be computed again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> bytes | None:
        """The bytes under `key`; None where absent or damaged. Raises EditorError on a bad key."""
        try:
            checksum, _, payload = self._path(key).read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        return payload if checksum == _checksum(key, payload) else None

    def put(self, key: str, payload: bytes) -> None:
        """Keep `payload` under `key`, in place of an older entry.

        Raises EditorError on a bad key or when the disk refuses; an older entry then stays.
        """
        path = self._path(key)
        with atomic.explained("writing to the journal"):
            atomic.write(path, _checksum(key, payload) + b"\n" + payload)
            atomic.sync_directory(self._folder)

    def keys(self) -> tuple[str, ...]:
        """The keys of all sound entries, sorted."""
        names = sorted(entry.name for entry in self._folder.iterdir())
        return tuple(name for name in names if _KEY.fullmatch(name) and self.get(name) is not None)

    def clear(self) -> None:
        """Remove every entry. Raises EditorError when the disk refuses."""
        with atomic.explained("clearing the journal"):
            for entry in self._folder.iterdir():
                atomic.discard(entry)
            atomic.sync_directory(self._folder)

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise EditorError(f"journal key {key!r} is not lower-case hexadecimal")
        return self._folder / key


def _checksum(key: str, payload: bytes) -> bytes:
    digest = sha256(key.encode())
    digest.update(b"\n")
    digest.update(payload)
    return digest.hexdigest().encode()
