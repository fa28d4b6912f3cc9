"""Where a store is, and where its files are inside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from editors import EditorError

STORE_DIR = ".editcli"
STORE_VARIABLE = "EDITCLI_STORE"


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of the store at folder `root`."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def history(self) -> Path:
        return self.root / "history.jsonl"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def versions(self) -> Path:
        return self.root / "versions"

    @property
    def refs(self) -> Path:
        return self.root / "refs"

    @property
    def head(self) -> Path:
        return self.refs / "HEAD"

    @property
    def journal(self) -> Path:
        return self.root / "journal"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def holder(self) -> Path:
        return self.root / "lock.json"

    @property
    def folders(self) -> tuple[Path, ...]:
        return self.blobs, self.versions, self.refs, self.journal

    def blob(self, digest: str) -> Path:
        return self.blobs / digest

    def manifest(self, version_id: str) -> Path:
        return self.versions / f"{version_id}.json"

    def tag(self, name: str) -> Path:
        return self.refs / name

    def holds_store(self) -> bool:
        return self.config.is_file()


def find_store(explicit: Path | None, cwd: Path, env: Mapping[str, str]) -> Path:
    """The folder of the store to use: `explicit`, else EDITCLI_STORE, else the nearest upward.

    The first two may name the store itself or the folder that holds its `.editcli`. Raises
    EditorError where there is no store; a folder that is named but holds none is not passed over.
    """
    named = explicit or (Path(env[STORE_VARIABLE]) if env.get(STORE_VARIABLE) else None)
    if named is not None:
        folder = cwd / named
        for candidate in (folder, folder / STORE_DIR):
            if Layout(candidate).holds_store():
                return candidate
        source = "" if explicit else f" (from {STORE_VARIABLE})"
        raise EditorError(f"no store at {folder}{source}", "`editcli init` makes one")
    for folder in (cwd, *cwd.parents):
        if Layout(folder / STORE_DIR).holds_store():
            return folder / STORE_DIR
    raise EditorError(
        f"no store in {cwd} or any folder above it", "`editcli init` makes one, or pass `--store`"
    )


def new_store_path(explicit: Path | None, cwd: Path, env: Mapping[str, str]) -> Path:
    """Where a new store goes: `explicit`, else EDITCLI_STORE, else `.editcli` in `cwd`."""
    return cwd / (explicit or env.get(STORE_VARIABLE) or STORE_DIR)
