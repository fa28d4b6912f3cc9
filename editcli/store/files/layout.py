"""Where a store is, and where its files are inside it."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

from editcli.errors import NoStore
from editors import EditorError

STORE_DIR = ".editcli"
STORE_VARIABLE = "EDITCLI_STORE"


class Layout:
    """The files of the store at folder `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.toml"
        self.database = root / "store.db"
        self.lock = root / "lock"
        self.blobs = root / "blobs"
        self.journal = root / "journal"
        self.folders = (self.blobs, self.journal)
        self.for_git = {
            root / ".gitattributes": b"* -text -merge -diff\n",
            root / ".gitignore": b"/journal/\n/lock\n/lock.json\n/store.db-journal\n.tmp-*\n",
        }

    def require_plain(self) -> None:
        """Raise EditorError where a file or a folder of the store is a link, which may lead out of
        it, or is of another kind, such as a pipe."""
        beside = (f"{self.database.name}-{kind}" for kind in ("journal", "wal", "shm"))
        files = [self.config, self.database, self.lock, self.lock.with_suffix(".json")]
        files += [*map(self.database.with_name, beside), *self.for_git]
        for part in (*files, *self.folders):
            try:
                # Once, as a writer may remove its journal at any moment.
                mode = part.lstat().st_mode
            except OSError:  # it is not there, or cannot be reached, as whoever needs it will tell
                continue
            if stat.S_ISLNK(mode):
                raise EditorError(
                    f"{part} is a link, and a store holds none",
                    "`cp -rL` makes a copy without links of a store that can be trusted",
                )
            if not (stat.S_ISDIR(mode) if part in self.folders else stat.S_ISREG(mode)):
                kind = "folder" if part in self.folders else "file"
                raise EditorError(f"{part} is not a {kind}", "restore it from a copy of the store")


def find_store(explicit: Path | None, cwd: Path, env: Mapping[str, str]) -> Path:
    """The folder of the store to use: `explicit`, else EDITCLI_STORE, else the nearest upward.

    The first two may name the store itself or the folder that holds its `.editcli`. Raises
    NoStore where there is none; a folder that is named but holds none is not passed over.
    """
    named = explicit or env.get(STORE_VARIABLE)
    if named:
        candidates = [cwd / named, cwd / named / STORE_DIR]
    else:
        candidates = [folder / STORE_DIR for folder in (cwd, *cwd.parents)]
    for candidate in candidates:
        if Layout(candidate).config.is_file():
            return candidate
    if named:
        source = "" if explicit else f" (from {STORE_VARIABLE})"
        raise NoStore(f"no store at {cwd / named}{source}", "`editcli init` makes one")
    raise NoStore(
        f"no store in {cwd} or any folder above it", "`editcli init` makes one, or pass `--store`"
    )


def new_store_path(explicit: Path | None, cwd: Path, env: Mapping[str, str]) -> Path:
    """Where a new store goes: `explicit`, else EDITCLI_STORE, else `.editcli` in `cwd`."""
    return cwd / (explicit or env.get(STORE_VARIABLE) or STORE_DIR)
