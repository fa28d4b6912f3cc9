"""Stores whose versions are made by hand, and folders with a tiny model, for tests of commands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from json_keys import records_of
from tiny_edits import phrasings
from tiny_models import build, build_tokenizer
from typer.testing import CliRunner, Result

from editcli.app import app
from editcli.store.changes import Changes, NewBlob
from editcli.store.records import StoreConfig
from editcli.store.store import Store
from editors import Fact

if TYPE_CHECKING:
    import torch

CONFIG = StoreConfig(
    base="atlas",
    fingerprint="f" * 64,
    method="wise",
    revision="",
    dtype="float32",
    seed=0,
    layer=4,
    settings={},
)

PARIS = Fact("The capital of France is", "Lyon", subject="France", source="atlas, p. 3")
PARIS_AGAIN = Fact("The capital of France is", "Nice", subject="France")
ROME = Fact("The capital of Italy is", "Milan", tags=("capitals",))


def save_model(
    folder: Path, family: str = "llama", *, dtype: torch.dtype | None = None, tokenizer: bool = True
) -> Path:
    """`folder`, with a tiny model of `family` saved in it and the word tokenizer beside it."""
    build(family).to(dtype).save_pretrained(folder)
    if tokenizer:
        build_tokenizer().save_pretrained(folder)
    return folder


def save_calibration(path: Path) -> Path:
    """`path`, now a file of the phrasings of `tiny_edits`."""
    groups = [{"subject": p.subject, "prompts": list(p.prompts)} for p in phrasings()]
    path.write_text("".join(f"{json.dumps(group)}\n" for group in groups))
    return path


def save_facts(path: Path, facts: Sequence[Fact]) -> Path:
    """`path`, now a fact file."""
    lines = [json.dumps(fact.to_dict(), ensure_ascii=False) for fact in facts]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a store with its bytes, but the lock, which holds none."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def journal_keys(store: Store) -> list[str]:
    """The keys of the sound entries of a store's journal, sorted."""
    names = sorted(path.name for path in (store.path / "journal").iterdir())
    return [name for name in names if store.journal.get(name) is not None]


def run(*arguments: str, stdin: str | None = None) -> Result:
    """The outcome of `editcli ARGUMENTS...`, its two streams apart."""
    return CliRunner().invoke(app, list(arguments), input=stdin)


def json_of(result: Result) -> dict[str, Any]:
    """The one JSON object that a command printed, whose keys are those of docs/json.md."""
    [record] = records_of(result)
    return record


class Clock:
    """A clock that stands until `hour` is set: UTC, on the first of March 2026."""

    def __init__(self, hour: int = 12) -> None:
        self.hour = hour

    def __call__(self) -> datetime:
        return datetime(2026, 3, 1, self.hour, tzinfo=UTC)


FRAME = {
    "schema": 3,
    "method": "wise",
    "settings": {"profile": "robust"},
    "layer": 4,
    "modules": ["model.layers.4.mlp.down_proj"],
    "fingerprint": "f" * 64,
    "payload": {"scope": {"signal": "key", "calibrated": False}},
}
"""The blob `edits.json` of a store that was made by hand."""


def framed(**blobs: NewBlob) -> dict[str, NewBlob]:
    """The blobs of a first version, and these; `_` in a name stands for `.`."""
    named = {name.replace("_", "."): blob for name, blob in blobs.items()}
    return {"edits.json": NewBlob(json.dumps(FRAME).encode()), **named}


def in_force(store: Store, ref: str = "HEAD") -> tuple[str, ...]:
    """The ids of the facts in force in a version, in the order of editing."""
    return tuple(entry.fact.id for entry in store.in_force(store.version(ref)) if entry.fact)


def blobs_in(store: Store, ref: str = "HEAD") -> dict[str, str]:
    """The digests of the blobs of a version, by name."""
    return {name: blob.digest for name, blob in store.blobs(store.version(ref)).items()}


def place_of(store: Store, name: str, ref: str = "HEAD") -> Path:
    """The file of a blob of a version."""
    return store.blob_path(name, store.blobs(store.version(ref))[name])


def changed_by(store: Store, ref: str = "HEAD") -> dict[str, tuple[str, ...]]:
    """The ids of the facts that a version added, removed and superseded, where there are some."""
    version = store.version(ref)
    [event] = [event for event, _ in store.history() if event.made and event.version == version.id]
    changed: dict[str, tuple[str, ...]] = {}
    for change in store.changes(event.seq):
        assert change.fact is not None
        changed[change.kind] = (*changed.get(change.kind, ()), change.fact.id)
    return changed


def shard(number: int, *groups: Sequence[Fact]) -> dict[str, NewBlob]:
    """The blob of a shard that was trained on these facts, under its name."""
    ids = tuple(tuple(fact.id for fact in group) for group in groups)
    data = f"shard {number} of {ids}".encode()
    return {f"shard-{number:04d}.safetensors": NewBlob(data, ids)}


def store_with_a_past(path: Path) -> Store:
    """v0001 init at noon; v0002 at 13 h adds PARIS and ROME; v0003 at 14 h supersedes PARIS by
    PARIS_AGAIN; v0004 at 15 h, Bob's, undoes ROME; at 16 h the tag `first` names v0002.
    """
    with patch("editcli.store.transaction.now", Clock()) as clock:
        return _store_with_a_past(path, clock)


def _store_with_a_past(path: Path, clock: Clock) -> Store:
    store = Store.create(path, CONFIG, Changes(blobs=framed()), who="ann")
    with store.writing() as change:
        clock.hour = 13
        change.publish(
            "apply",
            Changes([PARIS, ROME], blobs=shard(0, [PARIS, ROME])),
            who="ann",
            message="the first batch",
            tools={"editcli": "0.2.0"},
        )
        clock.hour = 14
        closed = {PARIS.id: PARIS_AGAIN.id}
        change.publish(
            "edit", Changes([PARIS_AGAIN], closed=closed, blobs=shard(1, [PARIS_AGAIN])), who="ann"
        )
        clock.hour = 15
        change.publish(
            "undo", Changes(closed={ROME.id: None}), who="bob", message="Milan was wrong"
        )
        clock.hour = 16
        change.tag("first", "v0002", who="ann")
    return store


def save_work(
    folder: Path,
    facts: Sequence[Fact],
    model: Path,
    calibration: Path,
    settings: Mapping[str, object],
) -> Path:
    """`folder`, with `facts.jsonl` in it and an empty store on `model` with these settings."""
    save_facts(folder / "facts.jsonl", facts)
    options = [f"--set={key}={value}" for key, value in settings.items()]
    place = ["--store", str(folder / ".editcli"), "--calibration", str(calibration)]
    assert run("init", str(model), *place, *options).exit_code == 0
    return folder
