"""One writer at a time, which says who it is."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from editcli.errors import StoreLocked
from editcli.store.files import atomic


@contextmanager
def locked(lock: Path, command: str, since: datetime, wait: float) -> Iterator[None]:
    """Hold the file lock `lock`, and name this process in a file beside it, until the block ends.

    The operating system gives the lock back when its process dies, in whatever way. Raises
    StoreLocked naming the process that holds the lock for more than `wait` seconds.
    """
    holder = lock.with_suffix(".json")
    with ExitStack() as held:
        with atomic.explained("locking the store"):
            try:
                held.enter_context(FileLock(lock, timeout=wait))
            except Timeout:
                raise StoreLocked(
                    f"store is locked by {_described(holder, since)}",
                    "`--wait SECONDS` waits for it; `editcli log` works meanwhile",
                ) from None
            record = {"pid": os.getpid(), "host": socket.gethostname(), "command": command}
            record["since"] = since.isoformat(timespec="seconds")
            held.callback(atomic.discard, holder)
            atomic.write(holder, json.dumps(record).encode() + b"\n")
        yield


def _described(holder: Path, now: datetime) -> str:
    try:
        record = json.loads(holder.read_bytes())
        since, today = datetime.fromisoformat(record["since"]).astimezone(), now.astimezone().date()
        when = f"{since:%H:%M:%S}" if since.date() == today else f"{since:%Y-%m-%d %H:%M:%S}"
        return f"pid {record['pid']} on host {record['host']} ({record['command']}) since {when}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"  # it has the lock but has not written its name yet
