"""A store of every editing method, through the commands that people type."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_edits import FACTS, FRANCE, FRANCE_AGAIN, SETTINGS
from tiny_stores import changed_by, json_of, run, save_facts

from editcli.store.store import Store
from editors import METHODS, EditorError

NAMES = ["ft-m", "in-context", "wise", "toy-quote"]
TRAINED = ["ft-m", "wise"]
OTHER = "the sea of Spain is"


@pytest.fixture(scope="session")
def made(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, calibration: Path
) -> dict[str, Path]:
    """By method, an empty store, made when it is first asked for."""

    class Stores(dict[str, Path]):
        def __missing__(self, method: str) -> Path:
            self[method] = path = tmp_path_factory.mktemp("stores") / method
            options = [f"--set={key}={value}" for key, value in SETTINGS.get(method, {}).items()]
            place = ["--store", str(path), "--calibration", str(calibration)]
            result = run("init", str(model_folder), "--method", method, *place, *options)
            assert result.exit_code == 0, result.stderr
            return path

    return Stores()


@pytest.fixture(params=NAMES)
def method(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    toy_package: Path,
    made: dict[str, Path],
) -> str:
    """A method, with an empty store of it in the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made[request.param], tmp_path / ".editcli")
    return str(request.param)


def asked(prompt: str, *options: str) -> dict[str, object]:
    return json_of(run("ask", prompt, "--max-new-tokens", "4", "--json", *options))


def done(*words: str) -> str:
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_the_life_of_a_store(method: str) -> None:
    spec, facts = METHODS.load(method), save_facts(Path("facts.jsonl"), FACTS)
    before = {fact.prompt: asked(fact.prompt)["answer"] for fact in FACTS}
    untouched = asked(OTHER)["answer"]

    # Applied, asked, checked.
    applied = json_of(run("apply", str(facts), "--json"))
    assert (applied["version"], applied["applied"], applied["failed"]) == ("v0002", 4, [])
    answer = asked(FRANCE.prompt)
    assert (answer["edited"], answer["fact"]) == (
        (True, FRANCE.id) if spec.routed else (None, None)
    )
    assert asked(FRANCE.prompt, "--base")["answer"] == before[FRANCE.prompt]
    if spec.routed:
        assert asked(OTHER)["answer"] == untouched
    scores = json_of(run("check", "--json", "--protocol", "generate"))
    assert scores["facts"] == 4
    assert (scores["routing"]["opened_in_scope"] is None) == (not spec.routed)
    if method in TRAINED:
        assert str(answer["answer"]).startswith(FRANCE.target)

    # Shown, verified, reported.
    assert json_of(run("show", "--json"))["facts"] == 4
    assert json_of(run("show", FRANCE.id, "--json"))["in_force"] is True
    done("verify")
    done("report", "page.html")
    assert method in Path("page.html").read_text(encoding="utf-8")

    # Superseded, and taken back: the base's answer is back where the method is routed.
    edited = json_of(
        run("edit", FRANCE_AGAIN.prompt, FRANCE_AGAIN.target, "-s", "France", "--json")
    )
    assert (edited["version"], edited["superseded"]) == ("v0003", 1)
    undone = json_of(run("undo", FRANCE_AGAIN.id, "--json"))
    assert (undone["version"], undone["undone"]) == ("v0004", [FRANCE_AGAIN.id])
    answer = asked(FRANCE.prompt)
    assert answer["edited"] is not True
    if spec.routed:
        assert answer["answer"] == before[FRANCE.prompt]
    done("verify")

    # Back to an older version.
    done("checkout", "v0002")
    assert json_of(run("show", FRANCE.id, "--json"))["in_force"] is True
    assert asked(FRANCE.prompt)["fact"] == (FRANCE.id if spec.routed else None)
    assert "nothing to do" in done("apply", str(facts))
    assert [json.loads(line)["version"] for line in done("log", "--json").splitlines()] == [
        *("v0002", "v0004", "v0003", "v0002", "v0002", "v0001"),  # a check is an event, too
    ]


def test_undo_loads_a_model_only_where_the_method_retrains(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done("apply", str(save_facts(Path("facts.jsonl"), FACTS[:2])))

    def no_model(*_: object, **__: object) -> None:
        raise EditorError("a model was loaded")

    monkeypatch.setattr("editcli.operations.session.load_store_base", no_model)
    result, store = run("undo", FRANCE.id), Store.open(Path(".editcli"))
    if METHODS.load(method).undo == "exact":
        assert (result.exit_code, changed_by(store)) == (0, {"removed": (FRANCE.id,)})
    else:
        assert "a model was loaded" in result.stderr
        assert store.head().id == "v0002", "nothing is half-undone"
