"""What a store records about itself and about each of its versions."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import NewType

import tomli_w
from pydantic import Field

from editors import EditorError
from editors.schema import Number, String, Text, Whole, problems, record

STORE_FORMAT = 2
RESTORE_CONFIG = "put back `config.toml` as `editcli init` wrote it; no command changes it later"

Digest = NewType("Digest", str)
"""The SHA-256 of a blob, 64 lower-case hexadecimal digits."""

DIGEST = re.compile(r"[0-9a-f]{64}")
NUMBER = re.compile(r"v?0*([1-9][0-9]*)")
"""The number of a version as a user may type it: 3, v3, v0003."""

_ID = re.compile(r"v[0-9]{4,}")


@record(EditorError)
class StoreConfig:
    """What all versions of a store have in common; written once, to ``config.toml``.

    ``base`` is a model id or a path, ``revision`` its resolved commit (empty for a folder),
    ``fingerprint`` the digest of what edits rely on, and ``layer`` the block that is edited.
    """

    base: Text
    fingerprint: Text
    method: Text
    revision: String = ""
    dtype: Text = "float32"
    seed: Whole = 0
    layer: Whole = 0
    settings: Mapping[Text, bool | Whole | Number | String] = Field(default_factory=dict)

    def to_toml(self) -> str:
        """The text of ``config.toml``."""
        values = asdict(self)
        return tomli_w.dumps({"format": STORE_FORMAT, **values})

    @classmethod
    def from_toml(cls, text: str) -> StoreConfig:
        """Read what :meth:`to_toml` wrote. Raises EditorError naming the line or keys at fault."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise EditorError(
                f"config.toml cannot be read: {str(error).lower()}", RESTORE_CONFIG
            ) from error
        store_format = table.pop("format", None)
        if store_format == 1:
            raise EditorError(
                "this store was made by editcli 0.1, whose stores are not read any more",
                "make another store: `editcli init`, and apply the facts again: `editcli apply`",
            )
        if store_format != STORE_FORMAT:
            raise EditorError(
                f"store has format {store_format!r}, this editcli reads format {STORE_FORMAT}",
                "`pip install --upgrade editcli`",
            )
        missing = [f"{f.name}: is required" for f in fields(cls) if f.name not in table]
        if wrong := list(dict.fromkeys([*problems(cls, table), *missing])):
            raise EditorError(f"config.toml: {'; '.join(wrong)}", RESTORE_CONFIG)
        return cls(**table)


@dataclass(frozen=True, slots=True)
class Version:
    """One state of a store, immutable once published.

    ``blobs`` maps a name to the digest of its bytes; ``facts`` are the ids of the facts in force,
    in order; ``added``, ``removed`` and ``superseded`` say how they differ from ``parent``'s (empty
    for the first version). ``created`` is UTC in ISO 8601. ``tools`` maps a program to its version,
    ``config`` is the SHA-256 of the ``config.toml`` in force, and ``extra`` is any further JSON.
    """

    id: str
    parent: str
    operation: str
    blobs: Mapping[str, Digest]
    facts: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    superseded: tuple[str, ...]
    created: str
    author: str
    message: str
    tools: Mapping[str, str]
    config: str
    extra: Mapping[str, object] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """The number in the id: 3 for v0003."""
        return int(self.id[1:])

    def to_dict(self) -> dict[str, object]:
        """The plain form, ready for JSON."""
        return asdict(self)

    def to_bytes(self) -> bytes:
        """The manifest. Raises EditorError for text that is not Unicode or values not JSON."""
        return json_bytes({"format": STORE_FORMAT, **self.to_dict()}, indent=1) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Version:
        """Read a manifest. Raises ValueError, KeyError or TypeError when it is not one."""
        record = json.loads(data)
        if record.pop("format") != STORE_FORMAT:
            raise ValueError("unknown manifest format")
        for key in ("facts", "added", "removed", "superseded"):
            record[key] = tuple(record[key])
        return cls(**record)


def version_id(number: int) -> str:
    """The id of the version with that number: v0003 for 3."""
    return f"v{number:04d}"


def is_version_id(text: str) -> bool:
    """Whether ``text`` is an id in its canonical form."""
    return bool(_ID.fullmatch(text)) and version_id(int(text[1:])) == text


def timestamp(moment: datetime) -> str:
    """UTC in ISO 8601 with whole seconds, as written into manifests and history."""
    return moment.isoformat(timespec="seconds")


def json_bytes(record: Mapping[str, object], indent: int | None = None) -> bytes:
    """Canonical UTF-8 JSON without a newline at the end.

    Raises EditorError for what JSON or UTF-8 cannot hold (NaN, tensors, lone surrogates).
    """
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False, indent=indent).encode()
    except (TypeError, ValueError) as error:
        raise EditorError(f"cannot be written as JSON: {error}") from error
