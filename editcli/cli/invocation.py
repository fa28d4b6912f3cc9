"""One call of a command: its shared options, its store, its author, and the words typed."""

from __future__ import annotations

import getpass
import os
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import join

from editcli.cli.console import Output
from editcli.store.layout import find_store
from editcli.store.store import Store


@dataclass
class Invocation:
    """The values of the shared options (:data:`editcli.cli.options.SHARED`)."""

    message: str = ""
    author: str | None = None
    store: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    json: bool = False
    quiet: bool = False
    verbose: int = 0

    @cached_property
    def out(self) -> Output:
        """Where the command prints."""
        return Output(json_mode=self.json, quiet=self.quiet, verbose=self.verbose)

    def open_store(self) -> Store:
        """The store that ``--store``, EDITCLI_STORE or the current folder names.

        Raises:
            EditorError: there is no such store, or it cannot be opened.
        """
        return Store.open(find_store(self.store, Path.cwd(), os.environ))

    @property
    def who(self) -> str:
        """The author: ``--author``, else the account's name; empty when the system has none."""
        if self.author is not None:
            return self.author
        try:
            return getpass.getuser()
        except (KeyError, OSError, ImportError):  # no such account, as in some containers
            return ""

    @property
    def command(self) -> str:
        """The command as it was typed; the lock shows it to other processes."""
        return join(["editcli", *sys.argv[1:]])
