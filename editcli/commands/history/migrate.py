"""`editcli migrate`: rewrite a store of an older release."""

from __future__ import annotations

import os

from editcli.cli.options import READS, DryRunOption, Invocation, shared
from editcli.settings import current_folder
from editcli.store.files.layout import find_store
from editcli.store.older.migration import migrate, rehearse_migration


@shared(*READS)
def command(call: Invocation, dry_run: DryRunOption = False) -> None:
    """Rewrite a store that releases 0.2 made, with its whole history.

    Versions, tags, times and authors stay as they were. The old store is kept in a folder beside,
    which may be deleted.

    \b
    Examples:
      editcli migrate
      editcli migrate --dry-run
      editcli migrate --store beliefs/.editcli
    """
    path = find_store(call.store, current_folder(), os.environ)
    if dry_run:
        versions, kept = rehearse_migration(path)
    else:
        store, kept = migrate(path, call.command)
        versions = len(store.ids())
    record = {"store": str(path), "versions": versions, "kept_in": str(kept)}
    call.print_change(record, dry_run=dry_run)
