"""Reading a store of format 2, which releases 0.2 wrote: files in place of a database.

history.jsonl          a line for each event, chained by SHA-256
versions/v0003.json    a manifest: its blobs, and what is told of it
blobs/<sha256>         among them facts.jsonl and edits.json
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from editcli.store.changes import NewBlob
from editcli.store.files import atomic
from editcli.store.records import DIGEST, VERSION_ID, StoreConfig
from editors import EditorError, Fact
from editors.methods.edit_state import EDITS, FACTS, HEAD_MASK, PLAIN, SCHEMA
from editors.model.saved_payload import Groups

OLD_FORMAT = 2
RESTORE = "restore the store from a backup"


@dataclass(frozen=True, slots=True)
class OldVersion:
    """What a version of format 2 holds: ``facts`` ever applied by id, in order; ``closed``: of
    those not in force, the id in their place; ``blobs``: as format 3 has them."""

    facts: Mapping[str, Fact]
    closed: Mapping[str, str | None]
    blobs: Mapping[str, NewBlob]


class OldStore:
    """A store of format 2. All calls raise EditorError where it is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with atomic.explained("reading the store"):
            data = atomic.read(path / "config.toml") or b""
        try:
            table = tomllib.loads(data.decode())
        except (ValueError, RecursionError) as error:
            what = f"config.toml cannot be read: {str(error).lower()}"
            raise EditorError(what, RESTORE) from error
        if table.pop("format", None) != OLD_FORMAT:
            raise EditorError(f"{path} is not a store of format {OLD_FORMAT}")
        try:
            self.config = StoreConfig(**table)
        except EditorError as error:
            raise EditorError(f"config.toml: {error.message}", RESTORE) from error

    def events(self) -> Iterator[dict[str, Any]]:
        """The lines of the history, oldest first, each checked against the one before."""
        with atomic.explained("reading the history"):
            lines = (self.path / "history.jsonl").read_bytes().split(b"\n")[:-1]
        previous = "0" * 64
        for number, line in enumerate(lines, start=1):
            try:
                event: dict[str, Any] = json.loads(line)
                ids = (event["version"], event["head"])
                sound = event["previous"] == previous and all(map(VERSION_ID.fullmatch, ids))
            except (ValueError, KeyError, TypeError) as error:
                what = f"line {number} of the history cannot be read"
                raise EditorError(what, RESTORE) from error
            if not sound:
                raise EditorError(f"line {number} of the history does not fit the last", RESTORE)
            previous = sha256(line).hexdigest()
            yield event

    def manifest(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest that ``event`` published."""
        name = f"{event['version']}.json"
        data = self._read(self.path / "versions" / name, str(event["manifest"]), name)
        manifest: dict[str, Any] = json.loads(data)
        return manifest

    def version(self, manifest: Mapping[str, Any]) -> OldVersion:
        """What the version with this ``manifest`` holds."""
        try:
            data = {name: self._blob(name, digest) for name, digest in manifest["blobs"].items()}
            edits = json.loads(data.pop(EDITS))
            facts: dict[str, Fact] = {}
            for line in filter(None, data.pop(FACTS).split(b"\n")):
                fact = Fact.from_dict(json.loads(line))
                facts.pop(fact.id, None)
                facts[fact.id] = fact
            closed = {key: value["replaced_by"] for key, value in edits["closed"].items()}
            if HEAD_MASK in data:
                record = {**json.loads(data[HEAD_MASK]), "schema": SCHEMA}
                data[HEAD_MASK] = f"{json.dumps(record, indent=1)}\n".encode()
            summary = edits["payload"]
            made_from = _made_from(summary)
            if summary.get("plain"):
                data |= _with_plain(data, made_from, set(summary["plain"]))
            frame = {
                "schema": SCHEMA,
                **{name: edits[name] for name in PLAIN},
                "payload": _without_facts(summary),
            }
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise EditorError(f"{manifest['id']} cannot be read: {error}", RESTORE) from error
        data[EDITS] = f"{json.dumps(frame, indent=1)}\n".encode()
        blobs = {name: NewBlob(held, made_from.get(name, ())) for name, held in data.items()}
        return OldVersion(facts, closed, blobs)

    def _blob(self, name: str, digest: str) -> bytes:
        if not DIGEST.fullmatch(digest):
            raise EditorError(f"blob {name!r} has no digest, but {digest!r}", RESTORE)
        return self._read(self.path / "blobs" / digest, digest, f"blob {name!r}")

    def _read(self, path: Path, digest: str, what: str) -> bytes:
        with atomic.explained(f"reading {what}"):
            data = atomic.read(path)
        if data is None or sha256(data).hexdigest() != digest:
            raise EditorError(f"{what} is missing or damaged", RESTORE)
        return data


def _made_from(summary: Mapping[str, Any]) -> dict[str, Groups]:
    """By blob, the facts that it was made from, which format 2 kept in the summary."""
    found: dict[str, Groups] = {}
    for number, groups in enumerate(summary.get("shards", ())):
        found[f"shard-{number:04d}.safetensors"] = tuple(map(tuple, groups))
    for number, page in enumerate(summary.get("scope", summary).get("pages", ())):
        found[f"scope-keys-{number:04d}.safetensors"] = (tuple(page),)
    if summary.get("groups"):
        found["delta.safetensors"] = tuple(map(tuple, summary["groups"]))
    return found


def _without_facts(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a summary that name no fact."""
    kept = {key: summary[key] for key in ("signal", "calibrated") if key in summary}
    if "scope" in summary:
        kept["scope"] = _without_facts(summary["scope"])
    return kept


def _with_plain(
    data: Mapping[str, bytes], made_from: Mapping[str, Groups], plain: set[str]
) -> dict[str, bytes]:
    """The shards with facts that are trained in plain prompts only, with flags that say so."""
    import torch

    from editors.model.tensor_files import from_bytes, to_bytes

    changed = {}
    for name, groups in made_from.items():
        facts = dict.fromkeys(fact for group in groups for fact in group)
        if name.startswith("shard-") and not plain.isdisjoint(facts):
            flags = torch.tensor([fact in plain for fact in facts])
            changed[name] = to_bytes({**from_bytes(data[name]), "plain": flags})
    return changed
