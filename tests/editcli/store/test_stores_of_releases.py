"""Stores that a release has written are good for ever: once migrated, they are read, asked,
verified and changed.

`tests/data/stores-0.2` holds what editcli 0.2.0 wrote with each method on a tiny model, and what
each version answered then.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_edits import FACTS, FRANCE, FRANCE_AGAIN, JAPAN
from tiny_stores import json_of, run

from editcli.store.edits import edits_of
from editcli.store.store import Store
from editcli.store.tables.listing import Wanted
from editors import FactClosure

STORES = Path(__file__).parents[2] / "data" / "stores-0.2"
METHODS = ["ft-m", "in-context", "wise"]


@pytest.fixture(params=METHODS)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A copy of a store, its base where EDITCLI_MODEL says."""
    monkeypatch.setenv("EDITCLI_MODEL", str(STORES / "model"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(STORES / request.param, ".editcli")
    refused = run("log")
    assert refused.exit_code == 1
    assert "`editcli migrate`" in refused.stderr
    assert run("migrate").exit_code == 0
    return Store.open(tmp_path / ".editcli")


def test_its_history_and_facts_are_read(store: Store) -> None:
    operations = [event.operation for event, _ in store.history()]
    assert operations[:5] == ["init", "apply", "tag", "edit", "undo"]
    assert store.refs()["first"] == "v0002"
    version = store.version("v0004")
    all_of_them = Wanted(states=("in force", "superseded", "undone"))
    listed = {f.fact.id: f.state for f in store.list_facts(version, all_of_them) if f.fact}
    assert set(listed) == {*(fact.id for fact in FACTS), FRANCE_AGAIN.id}
    assert (listed[FRANCE.id], listed[JAPAN.id]) == ("superseded", "undone")
    past = store.past(version, FRANCE.id)
    assert past is not None
    assert past.closure == FactClosure("superseded", FRANCE_AGAIN.id)
    in_force = [fact.id for fact in edits_of(store, version).in_force()]
    assert in_force == [*(fact.id for fact in FACTS[2:]), FRANCE_AGAIN.id]
    assert json_of(run("show", "--json"))["facts"] == 3
    assert run("report", "page.html").exit_code == 0


def test_every_version_answers_as_it_did(store: Store) -> None:
    then = json.loads((STORES / "answers.json").read_text(encoding="utf-8"))
    for version in store.versions():
        for fact in FACTS:
            record = json_of(
                run("ask", fact.prompt, "--version", version.id, "--max-new-tokens", "4", "--json")
            )
            wanted = then[f"{store.config.method} {version.id} {fact.prompt}"]
            assert {key: record[key] for key in wanted} == wanted


def test_it_is_sound_and_can_be_changed(store: Store) -> None:
    assert run("verify").exit_code == 0
    assert run("edit", JAPAN.prompt, JAPAN.target, "-s", "Japan").exit_code == 0
    assert run("undo", JAPAN.id).exit_code == 0
    assert run("verify").exit_code == 0


def test_what_the_old_store_told_is_told_still(store: Store) -> None:
    old = [json.loads(line) for line in _lines(Path(".editcli.format-2/history.jsonl"))]
    new = store.history()
    assert len(old) == len(new)
    for line, (event, message) in zip(old, new, strict=True):
        for key in ("at", "who", "operation", "version", "head", "tag"):
            assert getattr(event, key) == line[key]
        assert message == line["message"]
        if event.made:
            assert event.changes == {kind: len(ids) for kind, ids in line["facts"].items()}


def test_a_damaged_store_is_not_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(STORES / "wise", ".editcli")
    blob = max(Path(".editcli/blobs").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(b"changed")
    before = sorted(path.name for path in tmp_path.iterdir())
    result = run("migrate")
    assert result.exit_code == 1
    assert "is missing or damaged" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert run("migrate", "--store", "elsewhere").exit_code == 1


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()
