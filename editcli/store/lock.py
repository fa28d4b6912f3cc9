"""One writer at a time, which says who it is."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from editcli.store import atomic
from editors import EditorError


@contextmanager
def locked(lock: Path, holder: Path, command: str, since: datetime, wait: float) -> Iterator[None]:
    """Hold the file lock `lock`, and name this process in the file `holder`, until the block ends.

    The operating system gives the lock back when its process dies, in whatever way. `wait` is in
    seconds. Raises EditorError naming the process that holds the lock.
    """
    file_lock = FileLock(lock)
    with atomic.explained("locking the store"):
        try:
            file_lock.acquire(timeout=wait)
        except Timeout:
            raise EditorError(
                f"store is locked by {_described(holder, since)}",
                "wait until that command ends; `editcli log` works meanwhile",
            ) from None
    try:
        _announce(holder, command, since)
        yield
    finally:
        try:
            atomic.discard(holder)
        finally:
            file_lock.release()


def _announce(holder: Path, command: str, since: datetime) -> None:
    record = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": command,
        "since": since.isoformat(timespec="seconds"),
    }
    with atomic.explained("locking the store"):
        atomic.write(holder, json.dumps(record).encode() + b"\n")


def _described(holder: Path, now: datetime) -> str:
    try:
        record = json.loads(holder.read_bytes())
        since = datetime.fromisoformat(record["since"])
        when = f"{since:%H:%M:%S}" if since.date() == now.date() else f"{since:%Y-%m-%d %H:%M:%S}"
        return (
            f"pid {record['pid']} on host {record['host']} ({record['command']}) since {when} UTC"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # it has the lock but has not written its name yet
