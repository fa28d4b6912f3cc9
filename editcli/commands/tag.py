"""`editcli tag`: give versions names."""

from __future__ import annotations

from typing import Annotated

import typer

from editcli.cli.console import Output
from editcli.cli.context import author as acting
from editcli.cli.context import command_words, local_time, open_store
from editcli.cli.options import AuthorOption, JsonOption, MessageOption, QuietOption, StoreOption
from editcli.errors import UsageError
from editcli.store.store import Store

COLUMNS = ("tag", "version", "when", "who", "message")


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The tag; without it all are listed.")
    ] = None,
    version: Annotated[
        str | None,
        typer.Argument(metavar="V", help="A version: an id, a number, a tag; HEAD if not given."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Move a tag that exists.")] = False,
    store: StoreOption = None,
    message: MessageOption = "",
    author: AuthorOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Name a version, or list the names.

    \b
    Examples:
      editcli tag
      editcli tag release
      editcli tag release v0007 --force -m "after review"
    """
    out = Output(json_mode=json, quiet=quiet)
    opened = open_store(store)
    if name is None:
        if force:
            raise UsageError("no tag is named", "`editcli tag NAME --force`")
        _list(opened, out)
        return
    before = opened.refs().get(name)
    with opened.writing(command_words()) as change:
        target = change.tag(
            name, version or "HEAD", move=force, author=acting(author), message=message
        )
    if before == target.id and not json:
        out.note(f"{name} names {target.id} already")
    out.record({"tag": name, "version": target.id, "previous": before})


def _list(store: Store, out: Output) -> None:
    latest = {event.tag: event for event in store.history() if event.tag}
    out.table(
        (
            {
                "tag": name,
                "version": event.version,
                "when": event.at if out.json_mode else local_time(event.at),
                "who": event.who,
                "message": event.message,
            }
            for name, event in sorted(latest.items())
        ),
        COLUMNS,
    )
