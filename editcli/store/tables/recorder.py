"""Writing what an event adds: rows of the table `record`, and the hash that the history keeps."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from hashlib import sha256

from editcli.store.records import NAME, json_bytes
from editors import EditorError, Fact

SALT_BYTES = 16


def leaf_of(
    kind: str,
    name: str | None = None,
    digest: str | None = None,
    salt: str | None = None,
    body: str | None = None,
    entry: int | None = None,
    other: int | None = None,
) -> bytes:
    """The leaf of a record: a hash of all columns that say something. The records that ``entry``
    and ``other`` name are meant by their keys, which the order of the leaves gives."""
    columns = (kind, name, digest, salt, body, entry, other)
    return sha256(json.dumps(columns).encode()).digest()


class Recorder:
    """Adds the records of one event; ``content`` is the hash of their leaves so far."""

    def __init__(self, database: sqlite3.Connection, event: int) -> None:
        self._database, self._event = database, event
        newest = database.execute("SELECT ifnull(max(key), 0) FROM record").fetchone()[0]
        self._key: int = newest
        self._content = sha256()

    @property
    def content(self) -> str:
        return self._content.hexdigest()

    def fact(self, fact: Fact) -> int:
        """Bring ``fact`` in force. Returns its record."""
        body = json_bytes({"id": fact.id, **fact.to_dict()}).decode()
        return self._add("fact", name=fact.id, salt=_salt(), body=body)

    def again(self, text: int) -> int:
        """Bring the fact whose text is in record ``text`` in force again."""
        return self._add("again", other=text)

    def close(self, entry: int, by: int | None) -> None:
        """End what record ``entry`` brought in force, in favour of record ``by`` if there is
        one."""
        self._add("close", entry=entry, other=by)

    def blob(self, name: str, digest: str | None, made_from: Sequence[Sequence[int]] = ()) -> None:
        """Give the blob ``name`` its digest, or remove it (None)."""
        if not NAME.fullmatch(name):
            raise EditorError(f"{name!r} cannot be the name of a blob")
        groups = json.dumps(made_from, separators=(",", ":")) if made_from else None
        self._add("blob", name=name, digest=digest, body=groups)

    def told(self, kind: str, record: Mapping[str, object]) -> None:
        """Add a note or scores."""
        self._add(kind, salt=_salt(), body=json_bytes(record).decode())

    def _add(
        self,
        kind: str,
        *,
        name: str | None = None,
        digest: str | None = None,
        salt: str | None = None,
        body: str | None = None,
        entry: int | None = None,
        other: int | None = None,
    ) -> int:
        leaf = leaf_of(kind, name, digest, salt, body, entry, other)
        self._key += 1
        self._content.update(leaf)
        self._database.execute(
            "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (self._key, self._event, kind, leaf, entry, other, name, digest, salt, body),
        )
        return self._key


def _salt() -> str:
    return secrets.token_hex(SALT_BYTES)
