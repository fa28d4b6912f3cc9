"""What a store records about itself and about each of its versions."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import NewType

from editors import EditorError

STORE_FORMAT = 1

Digest = NewType("Digest", str)
"""The SHA-256 of a blob, 64 lower-case hexadecimal digits."""

Setting = str | int | float | bool

DIGEST = re.compile(r"[0-9a-f]{64}")
NUMBER = re.compile(r"v?0*([1-9][0-9]*)")
"""What a user may type for a version: 3, v3, v0003."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_ID = re.compile(r"v[0-9]{4,}")


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """What every version of a store is built on; written once, to `config.toml`.

    `base` is a model id or a path, `revision` its resolved commit (empty for a folder), and
    `fingerprint` the digest of the weights that edits rely on.
    """

    base: str
    fingerprint: str
    method: str
    revision: str = ""
    dtype: str = "float32"
    seed: int = 0
    settings: Mapping[str, Setting] = field(default_factory=dict)

    def to_toml(self) -> str:
        """The text of `config.toml`. Raises EditorError for a value that TOML cannot hold."""
        lines = [f"format = {STORE_FORMAT}"]
        for key in ("base", "revision", "fingerprint", "method", "dtype", "seed"):
            lines.append(f"{key} = {_toml(key, getattr(self, key))}")
        lines += ["", "[settings]"]
        for key in sorted(self.settings):
            name = key if _BARE_KEY.fullmatch(key) else _toml(key, key)
            lines.append(f"{name} = {_toml(key, self.settings[key])}")
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str) -> StoreConfig:
        """Read what `to_toml` wrote. Raises EditorError naming the line or key at fault."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise EditorError(f"config.toml cannot be read: {str(error).lower()}") from error
        found = table.pop("format", None)
        if found != STORE_FORMAT:
            raise EditorError(
                f"store has format {found!r}, this editcli reads format {STORE_FORMAT}",
                "`pip install --upgrade editcli`",
            )
        wanted = {item.name: item.type for item in fields(cls)}
        if unknown := sorted(set(table) - set(wanted)):
            raise EditorError(f"config.toml has an unknown key {unknown[0]!r}")
        for key, kind in wanted.items():
            if key not in table:
                raise EditorError(f"config.toml lacks the key {key!r}")
            expected = {"str": str, "int": int}.get(str(kind), dict)
            if type(table[key]) is not expected:
                raise EditorError(f"config.toml: {key!r} must be of type {expected.__name__}")
        for key, value in table["settings"].items():
            if not isinstance(value, str | int | float):
                raise EditorError(f"config.toml: setting {key!r} must be a plain value")
        return cls(**table)


@dataclass(frozen=True, slots=True)
class Version:
    """One state of a store, immutable once published.

    `blobs` maps a name to the digest of its bytes; `facts` are the ids of the active facts, in
    order; `added`, `removed` and `superseded` say how they differ from `parent`'s (empty for the
    first version). `created` is UTC in ISO 8601. `tools` maps a program to its version, `config`
    is the SHA-256 of the `config.toml` in force, and `extra` is any further JSON.
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
    extra: Mapping[str, object]

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
    """Whether `text` is an id in its canonical form."""
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


def _toml(key: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which JSON leaves bare and TOML forbids.
        text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise EditorError(f"{key!r} holds text that is not valid Unicode") from error
        return text
    raise EditorError(f"{key!r} must be text, a number or a boolean, not {type(value).__name__}")
