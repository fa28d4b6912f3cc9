"""The SHA-256 of files, remembered by path, size and times, so that unchanged files are read once.

What is remembered lies in a cache of the user's, never in a store: a store may come from somebody
else. A file that changed so shortly before that its time may stay the same is read again.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from hashlib import file_digest
from pathlib import Path

from editcli.settings import cache_folder
from editcli.store.files import atomic

SETTLED_NS = 2_000_000_000  # a file system may keep times by two seconds


class Digests:
    """Digests of files; with ``trusts_cache``, what was remembered of those that look unchanged."""

    def __init__(self, database: sqlite3.Connection | None, *, trusts_cache: bool) -> None:
        self._database, self.trusts_cache = database, trusts_cache
        self.read = 0

    def of(self, path: Path) -> str:
        """The hex SHA-256 of a file. Raises OSError, also for what is no plain file."""
        with atomic.opened(path) as file:
            stat = os.fstat(file.fileno())
            times = f"{stat.st_mtime_ns} {stat.st_ctime_ns}"  # a program can set the first alone
            known_by = (str(path.absolute()), stat.st_size, times, stat.st_ino)
            if self.trusts_cache and (known := self._remembered(known_by)):
                return known
            digest = file_digest(file, "sha256").hexdigest()
        self.read += 1
        if self._database and time.time_ns() - stat.st_ctime_ns > SETTLED_NS:
            with suppress(sqlite3.Error):  # a cache that cannot be written does no harm
                self._database.execute(
                    "INSERT OR REPLACE INTO digest VALUES (?, ?, ?, ?, ?)", (*known_by, digest)
                )
        return digest

    def _remembered(self, known_by: tuple[str, int, str, int]) -> str | None:
        if self._database is None:
            return None
        with suppress(sqlite3.Error):
            row = self._database.execute(
                "SELECT sha256 FROM digest WHERE path = ? AND size = ? AND times = ? AND inode = ?",
                known_by,
            ).fetchone()
            return str(row[0]) if row else None
        return None


@contextmanager
def remembered_digests(*, trusts_cache: bool = True) -> Iterator[Digests]:
    """The digests of this user; what is found out is remembered at the end of the block.

    Without ``trusts_cache``, every file is read, and what is remembered is brought up to date.
    """
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(folder / "digests.db", timeout=1, isolation_level=None)
    except (OSError, RuntimeError, sqlite3.Error):
        yield Digests(None, trusts_cache=False)
        return
    with closing(database):
        try:
            database.execute("PRAGMA synchronous = OFF")
            database.execute(
                "CREATE TABLE IF NOT EXISTS digest (path TEXT PRIMARY KEY, size INTEGER, "
                "times TEXT, inode INTEGER, sha256 TEXT)"
            )
            database.execute("BEGIN IMMEDIATE")
        except sqlite3.Error:  # damaged, or held by another process
            yield Digests(None, trusts_cache=False)
            return
        try:
            yield Digests(database, trusts_cache=trusts_cache)
        finally:
            with suppress(sqlite3.Error):
                database.execute("COMMIT")
