"""Rewriting a store of format 2 as one of format 3, with its whole history."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from editcli.store.files import atomic
from editcli.store.files.layout import Layout
from editcli.store.files.lock import locked
from editcli.store.format_2 import OldStore, OldVersion
from editcli.store.records import now
from editcli.store.store import Store
from editcli.store.transaction import Changes, NewBlob, Transaction
from editors import EditorError

EMPTY = OldVersion({}, {}, {})


def migrate(path: Path, command: str) -> tuple[Store, Path]:
    """Rewrite the store at ``path``; returns it, and the folder that the old one is kept in.

    Versions, tags and times stay. The new store takes the old one's place when it is whole; a run
    that is killed before leaves the old one as it was.

    Raises:
        EditorError: it is no store of format 2, it is damaged, or another process writes to it.
    """
    old = OldStore(path)
    kept = _kept(path)
    fresh = path.with_name(f"{path.name}.new-{secrets.token_hex(4)}")
    with locked(Layout(path).lock, command, now(), wait=0):
        try:
            _copy(old, fresh)
            with atomic.explained("putting the new store in place"):
                atomic.replace(path, kept)
                atomic.replace(fresh, path)
                atomic.sync_directory(path.parent)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
    return Store.open(path), kept


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
    """Where the old store is kept; raises EditorError where something is there."""
    kept = path.with_name(f"{path.name}.format-2")
    if kept.exists():
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
