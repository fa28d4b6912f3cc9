"""Versions of what a model believes, on disk: a database, and content-addressed blobs beside it.

A change is published in two steps: first the blobs, each synced, then one transaction of the
database, which **commits** it. Before it, nothing has happened; after it, everything has. A process
that is killed at any instant leaves a store that opens at its last committed version. Readers take
no lock that lasts.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Unpack

from editcli.store import configuration, integrity, signatures
from editcli.store.changes import Changes
from editcli.store.files import atomic
from editcli.store.files.digests import Digests
from editcli.store.files.journal import Journal
from editcli.store.files.layout import Layout
from editcli.store.files.lock import locked
from editcli.store.integrity import Problem
from editcli.store.reader import StoreReader
from editcli.store.records import DIGEST, About, StoreConfig, now
from editcli.store.run import Run
from editcli.store.signatures import Signer
from editcli.store.tables import contents, database
from editcli.store.transaction import Transaction
from editors import EditorError


class Store(StoreReader):
    """A store opened for reading; `writing()` opens it for a change, and `verify` lists damage."""

    def __init__(self, path: Path, config: StoreConfig, text: bytes | None = None) -> None:
        """``text``: of ``config``, as it is written."""
        super().__init__(path)
        self.config = config
        self._config_text = config.to_toml() if text is None else text
        self.journal = Journal(self._layout.journal)

    # --- making and opening ---------------------------------------------------------------------

    @staticmethod
    def require_free(path: Path) -> None:
        """Raise EditorError where `path` exists and is not an empty folder."""
        if Layout(path).config.is_file():
            raise EditorError(f"{path} already holds a store", "use it, or name another `--store`")
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise EditorError(f"{path} is not an empty folder", "name another `--store`")

    @classmethod
    def create(
        cls,
        path: Path,
        config: StoreConfig,
        changes: Changes | None = None,
        signer: Signer | None = None,
        **about: Unpack[About],
    ) -> Store:
        """Make a store at `path` whose first version, v0001, holds `changes`. ``signer``: who signs
        its history, if ``config`` names one.

        The store appears at once and whole. Raises EditorError as `require_free`.
        """
        cls.require_free(path)
        fresh = path.parent / f"{path.name}.new-{secrets.token_hex(4)}"
        layout = Layout(fresh)
        try:
            with atomic.explained(f"making a store at {path}"):
                for folder in layout.folders:
                    folder.mkdir(parents=True)
                for file, text in layout.for_git.items():
                    atomic.write(file, text)
                atomic.write(layout.config, config.to_toml())
                database.create(layout.database, signed=signer is not None)
                with database.writing(layout.database) as connection:
                    first = Transaction(layout, connection, cls(fresh, config).version, signer)
                    first.publish("init", changes or Changes(), **about)
                for folder in (*layout.folders, fresh):
                    atomic.sync_directory(folder)
                if path.exists():
                    path.rmdir()  # empty, as seen above; a rename onto a folder is not portable
                atomic.replace(fresh, path)
                atomic.sync_directory(path.parent)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        return cls(path, config)

    @classmethod
    def open(cls, path: Path) -> Store:
        """The store at `path`. Raises EditorError where there is none, its format is another, or it
        holds links or pipes."""
        layout = Layout(path)
        layout.require_plain()
        data = configuration.read(layout)
        return cls(path, StoreConfig.from_toml(data), data)

    # --- changing and checking ------------------------------------------------------------------

    @contextmanager
    def writing(
        self, command: str = "editcli", wait: float = 0, signer: Signer | None = None
    ) -> Iterator[Transaction]:
        """Hold the store's lock and change the store; the lock shows `command` to other processes.

        Each call on the transaction commits by itself. What a killed process left is removed first.
        ``signer``: of a store whose history is signed. Raises EditorError when another process
        holds the lock for more than `wait` seconds, the history is damaged, `config.toml` was
        changed by hand, or the signer is not that of the store.
        """
        layout = self._layout
        signer = signatures.required(self.config.signer, signer)
        layout.require_plain()
        with locked(layout.lock, command, now(), wait):
            for folder in (layout.root, layout.blobs):
                atomic.sweep(folder)
            self.journal.sweep()
            with atomic.explained("opening the store"):
                for folder in layout.folders:
                    folder.mkdir(exist_ok=True)  # git keeps no empty folder
            with (
                database.writing(layout.database) as connection,
                closing(Transaction(layout, connection, self.version, signer)) as transaction,
            ):
                configuration.require_in_force(layout, connection, self._config_text)
                transaction.remove_purged()
                yield transaction

    @contextmanager
    def run(self) -> Iterator[Run]:
        """A training that is under way until the block ends. It holds no lock, and what is in the
        journal stays there. Raises EditorError when the disk refuses."""
        self._layout.require_plain()
        with self.journal.used():
            yield Run(self._layout.database, self.journal)

    def verify(self, digests: Digests | None = None) -> list[Problem]:
        """Everything that is wrong with the store; see `integrity.verify`. Without ``digests``,
        or where they trust no cache, everything is read."""
        full = digests is None or not digests.trusts_cache
        digests = digests or Digests(None, trusts_cache=False)
        with atomic.explained("verifying the store"):
            return list(integrity.verify(self._layout, digests, full=full))

    def unneeded_blobs(self) -> list[Path]:
        """The files of blobs that no version has, as a command that was killed leaves them."""
        with self._reading() as base:
            needed = contents.all_digests(base)
        with atomic.explained("reading the blobs"):
            files = [path for path in self._layout.blobs.iterdir() if DIGEST.fullmatch(path.name)]
        return sorted(path for path in files if path.name not in needed)

    def files_of(self, digests: Collection[str]) -> list[Path]:
        """The files of those of the blobs that are there."""
        paths = [self._layout.blobs / digest for digest in sorted(digests)]
        return [path for path in paths if path.is_file() and not path.is_symlink()]

    def remove(self, files: Sequence[Path]) -> None:
        """Remove these files; to be called while the store is being written to."""
        for path in files:
            atomic.discard(path)
