"""Streams that can be read once, such as standard input, made so that they can be read again."""

from __future__ import annotations

import io
import tempfile
from typing import Any, BinaryIO, Protocol, cast


class _Source(Protocol):
    """A stream that hands on what has come so far, at most ``size`` bytes; nothing at its end."""

    def read1(self, size: int, /) -> bytes: ...


class _Kept(io.RawIOBase):
    """What was read of a stream is kept in a temporary file; the rest is read when it is asked
    for, and no sooner."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._kept = tempfile.TemporaryFile(prefix="editcli-facts-")  # noqa: SIM115 - held open
        self._size = self._at = 0
        self._ended = False  # a terminal would go on after its end

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if whence == io.SEEK_END:
            while self._more(io.DEFAULT_BUFFER_SIZE):
                pass
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        while self._at >= self._size:
            if not self._more(len(buffer)):
                return 0
        self._kept.seek(self._at)
        data = self._kept.read(min(len(buffer), self._size - self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._kept.close()
        super().close()

    def _more(self, size: int) -> bytes:
        data = b"" if self._ended else self._source.read1(size)
        self._ended = not data
        self._kept.seek(self._size)
        self._kept.write(data)
        self._size += len(data)
        return data


def rereadable(source: _Source) -> BinaryIO:
    """``source`` as a file that can be gone through several times. Its first rows can be read
    before its end has come."""
    return cast("BinaryIO", io.BufferedReader(_Kept(source)))
