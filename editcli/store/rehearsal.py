"""Trying a change on a copy of a store's history, which is thrown away."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from editcli.store.files import atomic
from editcli.store.files.layout import Layout
from editcli.store.store import Store
from editcli.store.tables import database
from editcli.store.transaction import Transaction


@contextmanager
def rehearsing(store: Store) -> Iterator[Transaction]:
    """A transaction that changes nothing: it takes and refuses what one of ``store`` would, and
    tells the same. For what needs no blobs, such as tags and moves of HEAD.

    Raises EditorError where the store is damaged.
    """
    with TemporaryDirectory(prefix="editcli-") as place:
        real, copied = Layout(store.path), Layout(Path(place))
        with atomic.explained("copying the history"):
            for folder in copied.folders:
                folder.mkdir()
            shutil.copyfile(real.config, copied.config)
        with (
            database.reading(real.database) as source,
            database.explained("copying the history"),
            closing(sqlite3.connect(copied.database)) as target,
        ):
            source.backup(target)
        copy = Store(copied.root, store.config)
        with (
            database.writing(copied.database) as connection,
            closing(Transaction(copied, connection, copy.version)) as transaction,
        ):
            yield transaction
