"""Stores that a release has written open for ever: they are read, asked, verified and changed.

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

STORES = Path(__file__).parents[2] / "data" / "stores-0.2"
METHODS = ["ft-m", "in-context", "wise"]


@pytest.fixture(params=METHODS)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A copy of a store, its base where EDITCLI_MODEL says."""
    monkeypatch.setenv("EDITCLI_MODEL", str(STORES / "model"))
    monkeypatch.chdir(tmp_path)
    return Store.open(Path(shutil.copytree(STORES / request.param, tmp_path / ".editcli")))


def test_its_history_and_facts_are_read(store: Store) -> None:
    operations = [event.operation for event in store.history()]
    assert operations[:5] == ["init", "apply", "tag", "edit", "undo"]
    assert store.refs()["first"] == "v0002"
    edits = edits_of(store, "v0004")
    assert set(edits.facts) == {*(fact.id for fact in FACTS), FRANCE_AGAIN.id}
    assert edits.closed[FRANCE.id].replaced_by == FRANCE_AGAIN.id
    assert edits.closed[JAPAN.id].reason == "undone"
    assert json_of(run("show", "--json"))["counts"]["facts"] == 3
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
