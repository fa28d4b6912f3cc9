"""`editcli checkout`: make another version the current one."""

from __future__ import annotations

from typing import Annotated

import typer

from editcli.cli.console import Output
from editcli.cli.context import author as acting
from editcli.cli.context import command_words, open_store
from editcli.cli.options import AuthorOption, JsonOption, MessageOption, QuietOption, StoreOption


def command(
    version: Annotated[
        str, typer.Argument(metavar="V", help="A version: an id, a number, a tag, or V~N.")
    ],
    store: StoreOption = None,
    message: MessageOption = "",
    author: AuthorOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Move HEAD to another version: what ask, check, edit and export start from.

    Nothing is lost: every version stays, and the move is recorded in the history.

    \b
    Examples:
      editcli checkout v0003
      editcli checkout HEAD~1 -m "the last batch was wrong"
      editcli checkout release
    """
    out = Output(json_mode=json, quiet=quiet)
    opened = open_store(store)
    with opened.writing(command_words()) as change:
        before = opened.head().id
        target = change.move_head(version, author=acting(author), message=message)
    if target.id == before and not json:
        out.note(f"HEAD is at {target.id} already")
    out.record({"version": target.id, "previous": before, "facts": len(target.facts)})
