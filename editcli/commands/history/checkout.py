"""`editcli checkout`: make another version the current one."""

from __future__ import annotations

from typing import Annotated

from typer import Argument

from editcli.cli.completion import complete_version
from editcli.cli.options import VERSION_HELP, WRITES, DryRunOption, Invocation, shared
from editcli.store.rehearsal import rehearsing


@shared(*WRITES)
def command(
    call: Invocation,
    version: Annotated[
        str, Argument(metavar="V", help=VERSION_HELP, autocompletion=complete_version)
    ],
    dry_run: DryRunOption = False,
) -> None:
    """Move HEAD to another version.

    HEAD is the version that ask, check, edit and apply start from. Nothing is lost: every version
    stays, and the move is recorded in the history.

    \b
    Examples:
      editcli checkout v0003
      editcli checkout HEAD~1 -m "the last batch was wrong"
      editcli checkout release --dry-run
    """
    store = call.open_store()
    with rehearsing(store) if dry_run else call.writing(store) as transaction:
        before = store.head().id
        target = transaction.move_head(version, who=call.who, message=call.message)
    if target.id == before and not call.json:
        call.out.note(f"HEAD is already at {target.id}")
    record: dict[str, object] = {
        "version": target.id,
        "previous": before,
        "facts": store.count(target),
    }
    call.print_change(record, dry_run=dry_run)
