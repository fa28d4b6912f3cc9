"""What keeps any command from working, and which commands need no model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_edits import FACTS, FRANCE, FRANCE_AGAIN
from tiny_models import build
from tiny_stores import content, run, save_model

import editcli
from editcli.store.store import Store

WORK = [
    ["edit", FRANCE.prompt, FRANCE_AGAIN.target, "--subject", "France"],
    ["apply", "facts.jsonl"],
    ["check"],
    ["ask", FRANCE.prompt],
    ["chat"],
]
SERVE = ["serve", "--port", "0"]  # which would not end by itself
HISTORY = [
    *(["log"], ["show"], ["tag"], ["checkout", "v1"], ["undo", FRANCE.id], ["report", "page.html"]),
    *(["verify"], ["verify", "--no-base"]),
]
CONFLICTS = [
    ["conflict", "measure", "c.jsonl"],
    ["conflict", "locate", "c.jsonl"],
    ["conflict", "resolve", "c.jsonl", "--prefer", "memory"],
]
each_command = pytest.mark.parametrize("words", [*WORK, SERVE], ids=lambda words: words[0])


def save_one_fact() -> None:
    Path("facts.jsonl").write_text('{"prompt": "a", "target": "b"}\n')


def save_other_weights(folder: Path) -> None:
    """A model of the same structure."""
    model = build("llama")
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
    model.save_pretrained(folder)


def save_conflicts() -> None:
    """A conflict file with a row in each split."""
    row = {"question": "the sea is", "context": "the sea is red .", "context_answer": "red"}
    lines = [json.dumps({**row, "split": split}) for split in ("locate", "dev", "test")]
    Path("c.jsonl").write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize("words", [*WORK, SERVE, *HISTORY, *CONFLICTS], ids=" ".join)
def test_without_a_store_the_hint_is_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_one_fact()
    save_conflicts()
    result = run(*words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: no store in ")
    assert "\nhint: `editcli init` makes one" in result.stderr


@each_command
def test_another_base_is_refused_with_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calibration: Path, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(Path("model"))
    run("init", "model", "--calibration", str(calibration), "--set", "max_steps=1")
    run("edit", FACTS[1].prompt, FACTS[1].target)
    save_one_fact()
    store = Store.open(tmp_path / ".editcli")
    before = content(store.path)
    save_model(Path("model"), "qwen2")
    result = run(*words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "model_type is qwen2, and llama is recorded" in result.stderr
    assert "\nhint: use the model and `--dtype`" in result.stderr
    save_other_weights(Path("model"))
    result = run(*words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"the store was made on {store.config.fingerprint[:16]}" in result.stderr
    assert "the base model has the fingerprint " in result.stderr
    assert content(store.path) == before


@pytest.mark.parametrize("words", WORK[:2], ids=lambda words: words[0])
def test_a_locked_store_says_by_whom(edited: Store, words: list[str]) -> None:
    save_one_fact()
    with edited.writing("editcli apply monday.jsonl"):
        result = run(*words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: store is locked by pid " in result.stderr
    assert "(editcli apply monday.jsonl) since " in result.stderr
    assert edited.head().id == "v0002"


@pytest.mark.parametrize("words", WORK[2:], ids=lambda words: words[0])
def test_reading_does_not_wait_for_a_writer_and_writes_nothing(
    edited: Store, words: list[str]
) -> None:
    before = content(edited.path)
    with edited.writing("editcli apply monday.jsonl"):
        assert run(*words).exit_code == 0
    assert content(edited.path) == before


@each_command
def test_ctrl_c_while_the_model_loads_exits_with_130(
    edited: Store, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("editcli.operations.session.load_store_base", interrupted)
    save_one_fact()
    before = content(edited.path)
    result = run(*words)
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == "error: interrupted\n"
    assert content(edited.path) == before


# `undo` by retraining needs the model; to say what it would take back does not.
WITHOUT_A_MODEL = [
    *(["log"], ["log", "--json"], ["show"], ["show", FRANCE.id], ["show", "--facts"]),
    *(["tag"], ["tag", "good"], ["undo", FRANCE.id, "--dry-run"], ["checkout", "v0001"]),
    *(["checkout", "good"], ["report", "page.html"], ["methods"], ["methods", "--json"]),
]

RUN_THEM = """
import json, sys
sys.path.insert(0, sys.argv[1])
from typer.testing import CliRunner
from editcli.app import app
for words in json.load(sys.stdin):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, (words, result.stderr)
    assert not {"torch", "transformers"} & set(sys.modules), words
"""


@pytest.mark.parametrize(
    ("method", "undo"),
    [("wise", [["undo", FRANCE.id]]), ("in-context", [["undo", FRANCE.id]]), ("ft-m", [])],
)
def test_commands_on_the_history_load_neither_torch_nor_transformers(
    edited_by: Callable[[str], Store], method: str, undo: list[list[str]]
) -> None:
    store = edited_by(method)
    done = subprocess.run(
        [sys.executable, "-c", RUN_THEM, str(Path(editcli.__file__).parents[1])],
        input=json.dumps([*WITHOUT_A_MODEL, *undo]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    operations = [event.operation for event, _ in store.history()[2:]]
    assert operations == ["tag", "checkout", "checkout", *(["undo"] if undo else [])]
    assert Path("page.html").exists()
