"""Stores whose versions are made by hand, and folders with a tiny model, for tests of commands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from tiny_edits import phrasings
from tiny_models import build, build_tokenizer
from typer.testing import CliRunner, Result

from editcli.app import app
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
    """The one JSON object that a command printed."""
    record: dict[str, Any] = json.loads(result.stdout)
    return record


class Clock:
    """A clock that stands until `hour` is set: UTC, on the first of March 2026."""

    def __init__(self, hour: int = 12) -> None:
        self.hour = hour

    def __call__(self) -> datetime:
        return datetime(2026, 3, 1, self.hour, tzinfo=UTC)


def blobs(
    facts: Sequence[Fact],
    groups: Sequence[Sequence[Sequence[str]]] = (),
    closed: Mapping[str, tuple[str, str | None]] | None = None,
) -> dict[str, bytes]:
    """`facts.jsonl` and `edits.json`; `groups` holds the ids of each group of each shard."""
    lines = [json.dumps({"id": fact.id, **fact.to_dict()}, ensure_ascii=False) for fact in facts]
    edits = {
        "schema": 2,
        "method": "wise",
        "settings": {"profile": "robust"},
        "layer": 4,
        "modules": ["model.layers.4.mlp.down_proj"],
        "fingerprint": "f" * 64,
        "closed": {
            key: {"reason": reason, "replaced_by": replaced_by}
            for key, (reason, replaced_by) in (closed or {}).items()
        },
        "payload": {
            "shards": [[list(group) for group in shard] for shard in groups],
            "scope": {"signal": "key", "calibrated": False, "order": [], "pages": []},
        },
    }
    return {
        "facts.jsonl": "".join(f"{line}\n" for line in lines).encode(),
        "edits.json": json.dumps(edits).encode(),
    }


def store_with_a_past(path: Path) -> Store:
    """v0001 init at noon; v0002 at 13 h adds PARIS and ROME; v0003 at 14 h supersedes PARIS by
    PARIS_AGAIN; v0004 at 15 h, Bob's, undoes ROME; at 16 h the tag `first` names v0002.
    """
    with patch("editcli.store.transaction.now", Clock()) as clock:
        return _store_with_a_past(path, clock)


def _store_with_a_past(path: Path, clock: Clock) -> Store:
    store = Store.create(path, CONFIG, blobs=blobs([]), author="ann")
    old, other, new = PARIS.id, ROME.id, PARIS_AGAIN.id
    superseded = {old: ("superseded", new)}
    undone = {**superseded, other: ("undone", None)}
    two, three = [[[old, other]]], [[[old, other]], [[new]]]
    with store.writing() as change:
        clock.hour = 13
        change.publish(
            "apply",
            blobs([PARIS, ROME], two),
            [old, other],
            added=[old, other],
            author="ann",
            message="the first batch",
            tools={"editcli": "0.2.0"},
        )
        clock.hour = 14
        change.publish(
            "edit",
            blobs([PARIS, ROME, PARIS_AGAIN], three, superseded),
            [other, new],
            added=[new],
            superseded=[old],
            author="ann",
        )
        clock.hour = 15
        change.publish(
            "undo",
            blobs([PARIS, ROME, PARIS_AGAIN], three, undone),
            [new],
            removed=[other],
            author="bob",
            message="Milan was wrong",
        )
        clock.hour = 16
        change.tag("first", "v0002", author="ann")
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
