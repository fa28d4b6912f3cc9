"""What a store records about itself and about each of its versions."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypedDict

import tomli_w

from editors import EditorError
from editors.schema import Field, Number, String, Text, Whole, record

STORE_FORMAT = 3
CONFIG = "config.toml"
"""The configuration, and the name of its text among the blobs."""
RESTORE_CONFIG = "`editcli config restore` writes `config.toml` as it is recorded"

RARE = ("adapter", "remote_code", "signer")  # keys of `config.toml`
FREE = ("base", "revision", "minima")
"""Keys of `config.toml` that may change while versions stay what they are."""

NUMBER = re.compile(r"v?0*([1-9][0-9]{0,17})")
"""The number of a version as a user may type it: 3, v3, v0003."""
VERSION_ID = re.compile(r"v[0-9]{4,18}")
TAG = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,99}")
DIGEST = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")  # of a blob

Choice = Literal["", "use", "ignore"]
"""What a user says of an adapter beside weights; empty if nothing."""
Share = Annotated[float, Field(ge=0, le=1)]


@record(EditorError)
class StoreConfig:
    """What all versions of a store have in common; written once, to ``config.toml``.

    ``base`` is a model id or a path, ``revision`` its resolved commit (empty for a folder),
    ``fingerprint`` the digest of what edits rely on, and ``layer`` the block that is edited.
    ``adapter`` is what the user said of an adapter of PEFT beside the base's weights, "use" or
    "ignore"; ``remote_code`` the SHA-256 of the code that comes with the base, if it may be run.
    ``signer``: the public key that the history is signed with, as OpenSSH writes it; empty if it is
    not. ``files``: by the names of the base's files with weights and tokenizer, their SHA-256.
    ``structure``: the keys of the base's configuration that decide what it computes. ``minima``:
    by score, what new edits have to reach to become HEAD, where the command names none.
    """

    base: Text
    fingerprint: Text
    method: Text
    revision: String
    dtype: Text
    seed: Whole
    layer: Whole
    settings: Mapping[Text, bool | Whole | Number | String]
    adapter: Choice = ""
    remote_code: String = ""
    signer: String = ""
    minima: Mapping[Text, Share] = field(default_factory=dict)
    structure: Mapping[Text, bool | Whole | Number | String] = field(default_factory=dict)
    files: Mapping[Text, Text] = field(default_factory=dict)

    def to_toml(self) -> bytes:
        """The bytes of ``config.toml``. What few bases have is written only where they have it, so
        that older releases open the stores of all others."""
        optional = (*RARE, "minima", "structure", "files")
        rare = {key: value for key in optional if (value := getattr(self, key))}
        values = {key: value for key, value in asdict(self).items() if key not in optional}
        return tomli_w.dumps({"format": STORE_FORMAT, **rare, **values}).encode()

    @classmethod
    def from_toml(cls, data: bytes) -> StoreConfig:
        """Read what :meth:`to_toml` wrote. Raises EditorError naming the line or keys at fault."""
        try:
            table = tomllib.loads(data.decode())
        except (ValueError, RecursionError) as error:  # of a number that is too long, too
            raise EditorError(
                f"config.toml cannot be read: {str(error).lower()}", RESTORE_CONFIG
            ) from error
        store_format = table.pop("format", None)
        if store_format == 1:
            raise EditorError(
                "this store was made by editcli 0.1, and this version cannot read it",
                "make a new store: `editcli init`, and apply the facts again: `editcli apply`",
            )
        if store_format == 2:
            raise EditorError(
                "this store was made by editcli 0.2, and has another format",
                "`editcli migrate` rewrites it, with its whole history",
            )
        if store_format != STORE_FORMAT:
            raise EditorError(
                f"store has format {store_format!r}, this editcli reads format {STORE_FORMAT}",
                "`pip install --upgrade editcli`",
            )
        try:
            return cls(**table)
        except EditorError as error:
            raise EditorError(f"config.toml: {error.message}", RESTORE_CONFIG) from error


class About(TypedDict, total=False):
    """What a new version may say about how it came to be; see :class:`Version`. ``at``: by default
    now."""

    at: str
    who: str
    message: str
    tools: Mapping[str, str]
    extra: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One state of a store, immutable once published.

    ``number`` counts from 1. ``parent`` is the id of the version before (empty for the first), and
    ``changes`` counts the facts that were ``added``, ``removed`` and ``superseded`` since.
    ``at`` is UTC in ISO 8601, ``who`` the author. ``tools`` maps a program to its version,
    ``config`` is the SHA-256 of the ``config.toml`` in force, and ``extra`` is any further JSON.
    """

    number: int
    parent: str
    operation: str
    changes: Mapping[str, int]
    at: str
    who: str = ""
    message: str = ""
    tools: Mapping[str, str] = field(default_factory=dict)
    config: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """v0003 for 3."""
        return version_id(self.number)


def version_id(number: int) -> str:
    """The id of the version with that number: v0003 for 3."""
    return f"v{number:04d}"


def now() -> datetime:
    """The time in UTC, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def is_tag(name: str) -> bool:
    """Whether a version may be called so: not like a version itself, and not HEAD."""
    return bool(TAG.fullmatch(name)) and not NUMBER.fullmatch(name) and name.upper() != "HEAD"


def from_json(text: str | bytes) -> Any:
    """What a text of JSON says. Raises ValueError."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def json_bytes(record: Mapping[str, object], indent: int | None = None) -> bytes:
    """Canonical UTF-8 JSON without a newline at the end.

    Raises EditorError for what JSON or UTF-8 cannot hold (NaN, tensors, lone surrogates).
    """
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False, indent=indent).encode()
    except (TypeError, ValueError) as error:
        raise EditorError(f"cannot be written as JSON: {error}") from error
