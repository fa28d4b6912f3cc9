"""Rewriting a store of format 2 as one of format 3, with its whole history."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from editcli.store.changes import Changes, NewBlob
from editcli.store.files import atomic
from editcli.store.files.layout import Layout
from editcli.store.files.lock import locked
from editcli.store.older.format_2 import OldStore, OldVersion
from editcli.store.records import now
from editcli.store.store import Store
from editcli.store.transaction import Transaction
from editors import EditorError

EMPTY = OldVersion({}, {}, {})
OLD_PARTS = ("history.jsonl", "versions", "refs")  # that format 3 has no use for

_LEFT = re.compile(r"\.new-[0-9a-f]{8}(\.new-[0-9a-f]{8})?")


def migrate(path: Path, command: str) -> tuple[Store, Path]:
    """Rewrite the store at ``path``; returns it, and the folder that the old one is kept in.

    Versions, tags and times stay. The new store takes the old one's place with its `config.toml`,
    the last file that is written; a run that is killed before leaves the old store as it was, and
    the next run begins anew.

    Raises:
        EditorError: it is no store of format 2, it is damaged, or another process writes to it.
    """
    layout = Layout(path)
    layout.require_plain()
    old = OldStore(path)
    kept = _kept(path)
    fresh = path.with_name(f"{path.name}.new-{secrets.token_hex(4)}")
    with locked(layout.lock, command, now(), wait=0):
        _sweep(path)
        try:
            _copy(old, fresh)
            with atomic.explained("keeping the old store"):
                _keep(path, kept)
            with atomic.explained("putting the new store in place"):
                _put_in_place(Layout(fresh), layout)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        for name in OLD_PARTS:
            shutil.rmtree(path / name) if (path / name).is_dir() else atomic.discard(path / name)
        store = Store.open(path)
        store.remove(store.unneeded_blobs())
    return store, kept


def _is_copy(kept: Path, path: Path) -> bool:
    """Whether a run that was killed has kept the old store already."""
    with atomic.explained("comparing the stores"):
        return atomic.read(kept / OLD_PARTS[0]) == atomic.read(path / OLD_PARTS[0])


def _sweep(path: Path) -> None:
    """Remove what runs that were killed have left beside the store and in it."""
    for left in path.parent.iterdir():
        name = left.name.removeprefix(path.name)
        if name != left.name and _LEFT.fullmatch(name) and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
    for folder in (path, *(path / name for name in ("blobs", "journal", *OLD_PARTS[1:]))):
        atomic.sweep(folder)


def _keep(path: Path, kept: Path) -> None:
    """Make a copy of the old store. Raises OSError; then there is none."""
    if kept.exists():
        return
    copy = path.with_name(f"{path.name}.new-{secrets.token_hex(4)}")
    try:
        left_out = shutil.ignore_patterns("lock", "lock.json", f"{atomic.TEMP_PREFIX}*")
        shutil.copytree(path, copy, ignore=left_out, copy_function=_synced_copy)
        for folder in (*(part for part in copy.rglob("*") if part.is_dir()), copy):
            atomic.sync_directory(folder)
        atomic.replace(copy, kept)
        atomic.sync_directory(kept.parent)
    except BaseException:
        shutil.rmtree(copy, ignore_errors=True)
        raise


def _synced_copy(source: str, target: str) -> None:
    atomic.write(Path(target), Path(source).read_bytes())
    shutil.copystat(source, target)


def _put_in_place(new: Layout, layout: Layout) -> None:
    """Move the files of a new store to where the old one is; `config.toml`, which says what format
    it is, comes last. Raises OSError."""
    for folder in layout.folders:
        folder.mkdir(exist_ok=True)
    for blob in new.blobs.iterdir():
        os.replace(blob, layout.blobs / blob.name)
    os.replace(new.database, layout.database)
    for file, text in layout.for_git.items():
        atomic.write(file, text)
    for folder in (*layout.folders, layout.root):
        atomic.sync_directory(folder)
    config = new.config.read_bytes()
    shutil.rmtree(new.root)  # so that nothing is left of it once the store is the new one
    atomic.write(layout.config, config)
    atomic.sync_directory(layout.root)


def rehearse_migration(path: Path) -> tuple[int, Path]:
    """Rewrite the store at ``path`` as :func:`migrate` would, into a folder that is thrown away;
    returns the number of its versions, and where the old store would be kept.

    Raises EditorError as :func:`migrate` does, except for another process that writes to it.
    """
    old, kept = OldStore(path), _kept(path)
    with TemporaryDirectory(prefix="editcli-") as place:
        fresh = Path(place, "store")
        _copy(old, fresh)
        return len(Store.open(fresh).ids()), kept


def _kept(path: Path) -> Path:
    """Where the old store is kept; raises EditorError where something else is there."""
    kept = path.with_name(f"{path.name}.format-2")
    if kept.exists() and not _is_copy(kept, path):
        raise EditorError(f"{kept} exists, where the old store would be kept", "move it away")
    return kept


def _copy(old: OldStore, fresh: Path) -> None:
    """Make a store at ``fresh`` with all events of ``old``."""
    events = list(old.events())
    if not events or not events[0]["manifest"]:
        raise EditorError("the history holds no version", "there is nothing to rewrite")
    versions: dict[str, OldVersion] = {"": EMPTY}
    first = old.manifest(events[0])
    versions[first["id"]] = old.version(first)
    changes = _between(EMPTY, versions[first["id"]])
    store = Store.create(fresh, old.config, changes, **_about(first))
    with store.writing("editcli migrate") as transaction:
        for event in events[1:]:
            if event["manifest"]:
                manifest = old.manifest(event)
                after = versions[manifest["id"]] = old.version(manifest)
                changes = _between(versions[manifest["parent"]], after)
                transaction.publish(manifest["operation"], changes, **_about(manifest))
            else:
                _point(transaction, event)
    if problems := store.verify():
        raise EditorError(f"the new store is not sound: {problems[0].what}: {problems[0].detail}")


def _point(transaction: Transaction, event: Mapping[str, Any]) -> None:
    told = {"who": event["who"], "message": event["message"], "at": event["at"]}
    if event["tag"]:
        transaction.tag(event["tag"], event["version"], move=True, **told)
    else:
        transaction.move_head(event["version"], **told)


def _about(manifest: Mapping[str, Any]) -> Any:
    return {
        "who": manifest["author"],
        "message": manifest["message"],
        "tools": manifest["tools"],
        "extra": manifest["extra"],
        "at": manifest["created"],
    }


def _between(before: OldVersion, after: OldVersion) -> Changes:
    """How a version differs from its parent."""
    old = {key: fact for key, fact in before.facts.items() if key not in before.closed}
    new = {key: fact for key, fact in after.facts.items() if key not in after.closed}
    entered = [
        fact
        for key, fact in after.facts.items()
        if (old.get(key) != fact if key in new else key not in before.facts)
    ]
    closed: dict[str, str | None] = {key: key for key in old if key in new and old[key] != new[key]}
    closed |= {key: after.closed.get(key) for key in old if key not in new}
    closed |= {fact.id: after.closed[fact.id] for fact in entered if fact.id not in new}
    blobs: dict[str, Any] = {name: None for name in before.blobs if name not in after.blobs}
    for name, blob in after.blobs.items():
        if name not in before.blobs or _digest(before.blobs[name]) != _digest(blob):
            blobs[name] = blob
    return Changes(entered, closed=closed, blobs=blobs)


def _digest(blob: NewBlob) -> str:
    return sha256(blob.data).hexdigest()
