"""Options that several commands share: one name means one thing everywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer
from tiny_edits import FACTS, FRANCE, FRANCE_AGAIN
from tiny_stores import json_of, run, save_facts

from editcli.app import app, command_paths
from editcli.cli.options import SHARED
from editcli.store.store import Store

WITH_A_MODEL = [
    ["ask", FRANCE.prompt],
    ["check"],
    ["verify"],
    ["edit", FRANCE.prompt, FRANCE_AGAIN.target],
    ["apply", "facts.jsonl"],
    ["conflict", "measure", "c.jsonl"],
    ["conflict", "locate", "c.jsonl"],
    ["conflict", "resolve", "c.jsonl", "--prefer", "memory"],
    ["init", "MODEL"],
]


@pytest.fixture
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def _files(edited: Store) -> None:
    """What the commands read, beside the store."""
    save_facts(Path("facts.jsonl"), FACTS)
    row = {"question": "the sea is", "context": "the sea is red .", "context_answer": "red"}
    row |= {"memory_answer": "blue"}
    lines = [json.dumps({**row, "split": split}) for split in ("locate", "dev", "test")]
    Path("c.jsonl").write_text("".join(f"{line}\n" for line in lines))


# --- --threads ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_one_thread", "_files")
@pytest.mark.parametrize("words", WITH_A_MODEL, ids=" ".join)
def test_threads_are_what_torch_computes_with(
    words: list[str], model_folder: Path, calibration: Path
) -> None:
    if words[0] == "init":
        words = ["init", str(model_folder), "--store", "new", "--calibration", str(calibration)]
    run(*words, "--threads", "2")  # that conflicts show too little to locate is no matter here
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("_one_thread", "_files")
def test_threads_come_from_the_environment_and_the_flag_wins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDITCLI_THREADS", "3")
    assert run("ask", FRANCE.prompt).exit_code == 0
    assert torch.get_num_threads() == 3
    assert run("ask", FRANCE.prompt, "--threads", "2").exit_code == 0
    assert torch.get_num_threads() == 2
    monkeypatch.setenv("EDITCLI_THREADS", "0")
    assert run("ask", FRANCE.prompt).exit_code == 2


@pytest.mark.usefixtures("_one_thread", "_files")
def test_without_a_number_of_threads_the_user_s_own_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)
    assert run("ask", FRANCE.prompt).exit_code == 0
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5"])
@pytest.mark.parametrize("words", WITH_A_MODEL, ids=" ".join)
def test_a_number_of_threads_below_one_is_a_usage_error(
    edited: Store, words: list[str], number: str
) -> None:
    result = run(*words, "--threads", number)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--threads" in result.stderr
    assert torch.get_num_threads() == 1
    assert edited.head().id == "v0002"


# --- all of them ----------------------------------------------------------------------------------


def test_every_command_declares_a_shared_option_alike() -> None:
    declared: dict[str, set[tuple[object, ...]]] = {}
    for path in command_paths():
        command = typer.main.get_command(app)
        for word in path:
            command = command.commands[word]  # type: ignore[attr-defined]
        for option in command.params:
            if option.name in SHARED:
                words = (*option.opts, option.help, option.envvar)  # type: ignore[attr-defined]
                declared.setdefault(option.name, set()).add(words)
    assert set(declared) == set(SHARED)
    assert {name: len(ways) for name, ways in declared.items()} == dict.fromkeys(SHARED, 1)


def test_the_author_is_named_by_the_flag_or_the_environment(
    edited: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITCLI_AUTHOR", "ann")
    for number, words in enumerate(([], ["--author", "bob"])):
        assert run("tag", f"name-{number}", *words).exit_code == 0
    assert [event.who for event, _ in edited.history()[-2:]] == ["ann", "bob"]


def test_the_store_is_named_by_the_flag_or_the_environment(
    edited: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path.parent)
    assert run("show").exit_code == 1
    monkeypatch.setenv("EDITCLI_STORE", str(edited.path))
    assert json_of(run("show", "--json"))["version"] == "v0002"
    monkeypatch.setenv("EDITCLI_STORE", str(tmp_path / "nowhere"))
    assert run("show").exit_code == 1
    assert json_of(run("show", "--json", "--store", str(edited.path)))["version"] == "v0002"
