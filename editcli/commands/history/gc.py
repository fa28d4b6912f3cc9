"""`editcli gc`: remove what no version needs."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

from typer import Option

from editcli.cli.options import WRITES, DryRunOption, Invocation, shared
from editcli.wording import counted


@shared(*WRITES)
def command(
    call: Invocation,
    grace: Annotated[
        float,
        Option(
            metavar="HOURS",
            min=0,
            help="Keep finished work of a stopped `edit` or `apply` that is younger.",
        ),
    ] = 24.0,
    dry_run: DryRunOption = False,
) -> None:
    """Remove files that no version needs.

    These are blobs that a killed command left, and work of an `edit` or `apply` that was stopped
    and not taken up again. Versions are never removed: `editcli undo --purge` takes facts out of
    them, and `editcli compact` makes a version that keeps less.

    \b
    Examples:
      editcli gc --dry-run
      editcli gc --grace 0
    """
    store = call.open_store()
    with nullcontext() if dry_run else call.writing(store):
        blobs, entries = store.unneeded_blobs(), store.journal.older_than(grace * 3600)
        size = sum(path.stat().st_size for path in (*blobs, *entries))
        if not dry_run:
            store.remove((*blobs, *entries))
    record = {"dry_run": dry_run, "blob_files": len(blobs), "journal_entries": len(entries)}
    record["bytes"] = size
    if call.json or call.quiet:
        call.out.record(record)
        return
    verb = "would remove" if dry_run else "removed"
    what = f"{counted(len(blobs), 'blob')} and {counted(len(entries), 'finished part')}"
    call.out.text(f"{verb} {what}, {size / 1e6:.1f} MB")
