"""`editcli migrate`: rewrite a store of an older release."""

from __future__ import annotations

import os
from pathlib import Path

from editcli.cli.options import READS, Invocation, shared
from editcli.store.files.layout import find_store
from editcli.store.migration import migrate


@shared(*READS)
def command(call: Invocation) -> None:
    """Rewrite a store that releases 0.2 made, with its whole history.

    Versions, tags, times and authors stay as they were. The old store is kept in a folder beside,
    which may be deleted.

    \b
    Examples:
      editcli migrate
      editcli migrate --store beliefs/.editcli
    """
    store, kept = migrate(find_store(call.store, Path.cwd(), os.environ), call.command)
    call.out.record({"store": str(store.path), "versions": len(store.ids()), "old": str(kept)})
