"""What a command brings with it: its store, its user, its words and its time zone."""

from __future__ import annotations

import getpass
import os
import sys
from datetime import datetime
from pathlib import Path
from shlex import join

from editcli.store.store import Store, find_store


def open_store(explicit: Path | None) -> Store:
    """The store that `--store`, EDITCLI_STORE or the folder at hand names; raises EditorError."""
    return Store.open(find_store(explicit, Path.cwd(), os.environ))


def author(given: str | None) -> str:
    """Who acts: `given`, else the name of the account; empty when the system has none."""
    if given is not None:
        return given
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # no such account, as in some containers
        return ""


def command_words() -> str:
    """The command as it was typed, for whoever meets the lock it holds."""
    return join(["editcli", *sys.argv[1:]])


def local_time(moment: str) -> str:
    """An ISO 8601 time with its zone, as people here read it: 2026-03-01 12:03."""
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M")
