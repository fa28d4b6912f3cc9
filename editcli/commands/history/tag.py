"""`editcli tag`: give versions names."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from editcli.cli.options import VERSION_HELP, WRITES, Invocation, shared
from editcli.errors import UsageError
from editcli.wording import local_time


@shared(*WRITES)
def command(
    call: Invocation,
    name: Annotated[
        str | None, Argument(metavar="NAME", help="The tag; without it, all tags are listed.")
    ] = None,
    version: Annotated[
        str | None, Argument(metavar="V", help=f"{VERSION_HELP}  [default: HEAD]")
    ] = None,
    force: Annotated[bool, Option("--force", "-f", help="Move a tag that exists.")] = False,
) -> None:
    """Name a version, or list all tags.

    \b
    Examples:
      editcli tag
      editcli tag release
      editcli tag release v0007 --force -m "after review"
    """
    store = call.open_store()
    if name is None:
        if force:
            raise UsageError("--force moves a tag, and none is given", "`editcli tag NAME --force`")
        events = {event.tag: event for event in store.history() if event.tag}
        call.out.table(
            (
                {
                    "tag": tag,
                    "version": event.version,
                    "when": event.at if call.json else local_time(event.at),
                    "who": event.who,
                    "message": event.message,
                }
                for tag, event in sorted(events.items())
            ),
            ("tag", "version", "when", "who", "message"),
        )
        return
    before = store.refs().get(name)
    with store.writing(call.command) as transaction:
        target = transaction.tag(
            name, version or "HEAD", move=force, author=call.who, message=call.message
        )
    if before == target.id and not call.json:
        call.out.note(f"{name} already names {target.id}")
    call.out.record({"tag": name, "version": target.id, "previous": before})
