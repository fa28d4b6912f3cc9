"""`editcli tag`: give versions names."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from editcli.cli.completion import complete_tag, complete_version
from editcli.cli.options import VERSION_HELP, WRITES, DryRunOption, Invocation, shared
from editcli.errors import UsageError
from editcli.store.rehearsal import rehearsing
from editcli.wording import PURGED, local_time


@shared(*WRITES)
def command(
    call: Invocation,
    name: Annotated[
        str | None,
        Argument(
            metavar="NAME",
            help="The tag; without it, all tags are listed.",
            autocompletion=complete_tag,
        ),
    ] = None,
    version: Annotated[
        str | None,
        Argument(
            metavar="V",
            help=f"{VERSION_HELP}  [default: HEAD]",
            autocompletion=complete_version,
        ),
    ] = None,
    force: Annotated[bool, Option("--force", "-f", help="Move a tag that exists.")] = False,
    delete: Annotated[bool, Option("--delete", "-d", help="Take the tag away.")] = False,
    dry_run: DryRunOption = False,
) -> None:
    """Name a version, list all tags, or take a tag away.

    The history keeps that there was the tag, and that it was taken away.

    \b
    Examples:
      editcli tag
      editcli tag release
      editcli tag release --delete
      editcli tag release v0007 --force -m "after review"
    """
    store = call.open_store()
    if name is None:
        if delete:
            raise UsageError("no tag was given", "`editcli tag NAME --delete`")
        if dry_run:
            raise UsageError("listing tags changes nothing", "leave out `--dry-run`")
        if force:
            raise UsageError("--force moves a tag, and none is given", "`editcli tag NAME --force`")
        tags = {event.tag: (event, told) for event, told in store.history() if event.tag}
        call.out.table(
            (
                {
                    "tag": tag,
                    "version": event.version,
                    "at": event.at if call.json else local_time(event.at),
                    "who": event.who,
                    "message": PURGED if told is None else told,
                }
                for tag, (event, told) in sorted(tags.items())
                if event.version
            ),
            ("tag", "version", "at", "who", "message"),
        )
        return
    if delete:
        if version is not None or force:
            raise UsageError("--delete takes a tag and nothing else", f"`editcli tag {name} -d`")
        with rehearsing(store) if dry_run else call.writing(store) as transaction:
            gone = transaction.delete_tag(name, who=call.who, message=call.message)
        call.print_change({"tag": name, "version": None, "previous": gone}, dry_run=dry_run)
        return
    before = store.refs().get(name)
    with rehearsing(store) if dry_run else call.writing(store) as transaction:
        target = transaction.tag(
            name, version or "HEAD", move=force, who=call.who, message=call.message
        )
    if before == target.id and not call.json:
        call.out.note(f"{name} already names {target.id}")
    call.print_change({"tag": name, "version": target.id, "previous": before}, dry_run=dry_run)
