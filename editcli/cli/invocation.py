"""One call of a command: its shared options, its store, its author, and the words typed."""

from __future__ import annotations

import getpass
import os
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import join
from typing import Annotated

from typer import Option

from editcli.cli.console import Output
from editcli.store.layout import find_store
from editcli.store.store import Store


@dataclass
class Invocation:
    """The values of the shared options; :func:`editcli.cli.options.shared` gives a command some."""

    message: Annotated[
        str, Option("--message", "-m", metavar="TEXT", help="Message for the history.")
    ] = ""
    author: Annotated[
        str | None, Option(metavar="WHO", envvar="EDITCLI_AUTHOR", help="Author for the history.")
    ] = None
    store: Annotated[
        Path | None,
        Option(
            metavar="DIR",
            envvar="EDITCLI_STORE",
            help="The store's folder; by default the nearest .editcli, in this folder or above.",
        ),
    ] = None
    device: Annotated[
        str,
        Option(
            metavar="NAME",
            envvar="EDITCLI_DEVICE",
            help="auto, cpu, cuda, cuda:1, mps, or spread (over all devices).",
        ),
    ] = "auto"
    dtype: Annotated[
        str,
        Option(
            metavar="NAME",
            envvar="EDITCLI_DTYPE",
            help="auto, float32, bfloat16, float16, 8bit or 4bit.",
        ),
    ] = "auto"
    threads: Annotated[
        int | None,
        Option(
            metavar="N",
            min=1,
            envvar="EDITCLI_THREADS",
            help="CPU threads; by default as many as other programs leave free.",
        ),
    ] = None
    json: Annotated[bool, Option("--json", help="Print JSON; lists as JSON Lines.")] = False
    quiet: Annotated[
        bool, Option("--quiet", "-q", help="Print ids only, and no notes or progress.")
    ] = False
    verbose: Annotated[
        int, Option("--verbose", "-v", count=True, help="Print details; -vv adds library logs.")
    ] = 0

    @cached_property
    def out(self) -> Output:
        """Where the command prints."""
        return Output(self.json, self.quiet, self.verbose)

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
