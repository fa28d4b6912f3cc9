"""`editcli gc`: remove what no version needs, and what only abandoned versions hold."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta
from typing import Annotated

from typer import Option

from editcli.cli.options import WRITES, DryRunOption, Invocation, shared
from editcli.errors import UsageError
from editcli.store.records import now
from editcli.wording import counted, listed

DAYS = 30.0
SHOWN = 10  # versions that are printed


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
    abandoned: Annotated[
        bool,
        Option(
            "--abandoned",
            help="Also remove what only versions hold that are neither HEAD nor tagged, and that "
            "no such version comes from.",
        ),
    ] = False,
    older_than: Annotated[
        float | None,
        Option(
            metavar="DAYS",
            min=0,
            max=36_500,
            help="With --abandoned, keep versions that were made, HEAD or tagged more recently.  "
            f"[default: {DAYS:g}]",
        ),
    ] = None,
    dry_run: DryRunOption = False,
) -> None:
    """Remove files that no version needs.

    These are blobs that a killed command left, and work of an `edit` or `apply` that was stopped
    and not taken up again. While one is under way, finished work is kept.

    With --abandoned, the content of versions goes that nothing comes from which is in use: versions
    that a minimum rejected, or that `checkout` has left behind. The history keeps them and their
    facts, and records what was removed; they cannot be asked or checked out any more. A tag keeps
    a version. `editcli undo --purge` takes facts out of all versions, and `editcli compact` makes a
    version that keeps less.

    \b
    Examples:
      editcli gc --dry-run
      editcli gc --grace 0
      editcli gc --abandoned --dry-run
      editcli gc --abandoned --older-than 7 -m "tidied up"
    """
    if older_than is not None and not abandoned:
        raise UsageError("--older-than is about abandoned versions", "`editcli gc --abandoned`")
    store = call.open_store()
    before = now() - timedelta(days=DAYS if older_than is None else older_than)
    with nullcontext() if dry_run else call.writing(store) as transaction:
        unneeded, entries = store.unneeded_blobs(), store.journal.older_than(grace * 3600)
        left = store.abandoned(before) if abandoned else None
        files = store.files_of(left.blobs) if left else []
        blobs = [*unneeded, *files]
        size = sum(path.stat().st_size for path in (*blobs, *entries))
        if transaction:
            store.remove((*unneeded, *entries))
            if left and left.blobs:
                transaction.remove_abandoned(before, who=call.who, message=call.message)
    versions = list(left.versions) if left else []
    record = {"dry_run": dry_run, "blob_files": len(blobs), "journal_entries": len(entries)}
    record["bytes"] = size
    if call.json or call.quiet:
        call.out.record({**record, "abandoned": versions})
        return
    verb = "would remove" if dry_run else "removed"
    what = f"{counted(len(blobs), 'blob')} and {counted(len(entries), 'finished part')}"
    call.out.text(f"{verb} {what}, {size / 1e6:.1f} MB")
    if versions:
        call.out.text(f"abandoned: {listed(versions, SHOWN)}")
