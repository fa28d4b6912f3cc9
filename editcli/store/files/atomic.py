"""Writes that a crash cannot tear: every change of a store on disk goes through this module.

A file appears whole or not at all: its bytes are written to a temporary file in the same folder,
synced, and renamed. `sync_directory` makes renames durable; callers call it once for many files,
before they write anything that refers to these. No link is followed: a store may come from anybody.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from editors import EditorError

TEMP_PREFIX = ".tmp-"

_TEMP = re.compile(re.escape(TEMP_PREFIX) + "[0-9a-f]{16}")
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


def sync_directory(path: Path) -> None:
    """Make the renames done in folder `path` survive a power cut. Raises OSError."""
    if os.name != "nt":  # folders cannot be opened there; the rename itself is journalled
        with _synced(path, os.O_RDONLY):
            pass


def read(path: Path) -> bytes | None:
    """The bytes of a file; None where it is absent. Raises OSError as :func:`opened`."""
    try:
        with opened(path) as file:
            return file.read()
    except FileNotFoundError:
        return None


def opened(path: Path) -> BufferedReader:
    """A file, opened to be read. Raises OSError, also for a link and for what is no plain file."""
    return open(path, "rb", opener=_plain)


def _plain(path: str, flags: int) -> int:
    # Opening a pipe would wait for somebody to write to it.
    fd = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a file", path)
    return fd


def discard(path: Path) -> None:
    """Remove a file if it exists; a file that cannot be removed does no harm, and is left."""
    with suppress(OSError):
        os.unlink(path)


def is_temporary(path: Path) -> bool:
    """Whether a file is one that :func:`stage` makes."""
    return bool(_TEMP.fullmatch(path.name)) and path.is_file()


def sweep(folder: Path) -> None:
    """Remove the temporary files that a killed process left in `folder`, and nothing else."""
    for temp in folder.glob(f"{TEMP_PREFIX}*") if not folder.is_symlink() else ():
        if is_temporary(temp):
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
