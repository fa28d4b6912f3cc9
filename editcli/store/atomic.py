"""Writes that a crash cannot tear: every change of a store on disk goes through this module.

A file appears whole or not at all: its bytes are written to a temporary file in the same folder,
synced, and renamed. An append that fails is cut off again. `sync_directory` makes renames durable;
callers call it once for many files, before they write anything that refers to these.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from editors import EditorError

TEMP_PREFIX = ".tmp-"

_FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})
# Windows opens files in text mode unless told otherwise.
_BINARY = getattr(os, "O_BINARY", 0)


def stage(path: Path, data: bytes) -> Path:
    """Write `data` to a synced temporary file beside `path` and return the temporary's path.

    Everything that needs room on the disk happens here, so that the rename that follows does not.
    Raises OSError; nothing is left behind then.
    """
    temp = path.parent / f"{TEMP_PREFIX}{secrets.token_hex(8)}"
    try:
        _write(temp, os.O_CREAT | os.O_EXCL, data)
    except BaseException:
        discard(temp)
        raise
    return temp


def replace(temp: Path, path: Path) -> None:
    """Rename a staged file to `path`; on failure the temporary is removed and OSError raised."""
    try:
        os.replace(temp, path)
    except BaseException:
        discard(temp)
        raise


def write(path: Path, data: bytes) -> None:
    """Put `data` at `path`, whole or not at all. Raises OSError."""
    replace(stage(path, data), path)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file whose bytes are put at `path`, whole, when the block ends well, and nowhere otherwise.

    Raises OSError.
    """
    temp = path.parent / f"{TEMP_PREFIX}{secrets.token_hex(8)}"
    try:
        with temp.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        discard(temp)
        raise
    replace(temp, path)


def append(path: Path, data: bytes) -> None:
    """Add `data` to the end of an existing file and sync it; on any failure cut it off again.

    Raises OSError. A process killed in between can leave a part of `data` at the end.
    """
    before = path.stat().st_size
    try:
        _write(path, os.O_APPEND, data)
    except BaseException:
        with suppress(OSError):
            truncate(path, before)
        raise


def truncate(path: Path, size: int) -> None:
    """Cut a file to its first `size` bytes and sync it. Raises OSError."""
    with _synced(path, os.O_WRONLY) as fd:
        os.ftruncate(fd, size)


def sync_directory(path: Path) -> None:
    """Make the renames done in folder `path` survive a power cut. Raises OSError."""
    if os.name != "nt":  # folders cannot be opened there; the rename itself is journalled
        with _synced(path, os.O_RDONLY):
            pass


def read(path: Path) -> bytes | None:
    """The bytes of a file; None where it is absent. Raises OSError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def discard(path: Path) -> None:
    """Remove a file if it exists; a file that cannot be removed does no harm, and is left."""
    with suppress(OSError):
        os.unlink(path)


def sweep(folder: Path) -> None:
    """Remove the temporary files that a killed process left in `folder`."""
    for temp in folder.glob(f"{TEMP_PREFIX}*"):
        discard(temp)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn an OSError inside the block into an EditorError, which says `what` was being done."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise EditorError(
                f"no space left on the disk while {what}; nothing was changed",
                "make room, and run the command again",
            ) from error
        reason = (error.strerror or str(error)).lower()
        where = f" ({error.filename})" if error.filename else ""
        raise EditorError(f"{what} failed: {reason}{where}") from error


@contextmanager
def _synced(path: Path, flags: int) -> Iterator[int]:
    """The descriptor of a file, which is synced when the block ends well, and always closed."""
    fd = os.open(path, flags | _BINARY, 0o666)
    try:
        yield fd
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(path: Path, flags: int, data: bytes) -> None:
    view = memoryview(data)
    with _synced(path, os.O_WRONLY | flags) as fd:
        while view:
            view = view[os.write(fd, view) :]
