"""`editcli ask`: the answer on stdout, and which memory gave it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_edits import FRANCE, JAPAN, PERU
from tiny_stores import content, run, said, save_model

from editcli.store.store import Store
from editors import Fact

KEYS = {
    *("schema", "answer", "memory", "shard", "activation", "threshold", "facts", "yielded"),
    *("closed", "prefer"),
}
ELSEWHERE = "the sea of Kenya is"


@pytest.mark.parametrize(("fact", "shard"), [(FRANCE, 0), (JAPAN, 0), (PERU, 1)])
def test_an_edited_prompt_is_answered_by_its_shard(edited: Store, fact: Fact, shard: int) -> None:
    result = run("ask", fact.prompt, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    record = said(result)
    assert set(record) == KEYS
    assert (record["answer"], record["memory"]) == (fact.target, "side")
    assert (record["shard"], record["facts"]) == (shard, [fact.id])
    assert record["activation"] > record["threshold"]


def test_a_prompt_that_names_no_subject_is_answered_by_the_main_memory(edited: Store) -> None:
    record = said(run("ask", ELSEWHERE, "--json"))
    assert set(record) == KEYS
    base = said(run("ask", ELSEWHERE, "--base", "--json"))
    assert record == base
    keys = ("memory", "shard", "activation", "threshold", "facts")
    assert [record[key] for key in keys] == ["main", None, None, None, []]


def test_people_read_the_answer_and_who_gave_it_apart(edited: Store) -> None:
    side = run("ask", FRANCE.prompt)
    assert side.stdout == "Rome\n"
    assert side.stderr.startswith(f"side memory, shard 0, fact {FRANCE.id}: activation 1.000, ")
    main = run("ask", ELSEWHERE, "--max-new-tokens", "2")
    assert len(main.stdout.splitlines()) == 1
    assert main.stderr.splitlines() == [
        "cut after 2 tokens; raise it with `--max-new-tokens`",
        "main memory: no edit claims this prompt",
    ]
    base = run("ask", FRANCE.prompt, "--base", "--max-new-tokens", "2")
    assert base.stdout != "Rome\n"
    assert base.stderr.endswith("\nthe base model, without edits\n")


def test_a_fact_that_was_taken_back_is_named_as_such(edited: Store) -> None:
    assert run("undo", FRANCE.id).exit_code == 0
    record = said(run("ask", FRANCE.prompt, "--json"))
    assert (record["memory"], record["facts"], record["closed"]) == ("main", [], True)
    told = run("ask", FRANCE.prompt).stderr
    assert told.endswith(f"main memory: fact {FRANCE.id}, which this asks for, was undone\n")


def test_quiet_prints_the_answer_alone(edited: Store) -> None:
    result = run("ask", FRANCE.prompt, "-q")
    assert (result.stdout, result.stderr) == ("Rome\n", "")


def test_every_version_answers_for_itself(edited: Store) -> None:
    before = said(run("ask", FRANCE.prompt, "--version", "v0001", "--json"))
    assert before == said(run("ask", FRANCE.prompt, "--base", "--json"))
    assert run("tag", "good").exit_code == 0
    assert run("edit", FRANCE.prompt, "Lima", "-s", "France").exit_code == 0
    assert run("ask", FRANCE.prompt).stdout == "Lima\n"
    assert run("ask", FRANCE.prompt, "--version", "good").stdout == "Rome\n"


def test_a_passage_is_read_before_the_question(edited: Store) -> None:
    with_context = said(run("ask", FRANCE.prompt, "--context", "Ann lives in Oslo.", "--json"))
    joined = said(run("ask", f"Ann lives in Oslo. {FRANCE.prompt}", "--json"))
    assert with_context == joined


def test_a_prompt_longer_than_the_context_is_an_error(edited: Store) -> None:
    result = run("ask", "the " * 130 + "sea is")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: the prompt has 133 tokens, the model takes 128 with")
    assert "`--context`" in result.stderr


def test_an_answer_ends_where_the_context_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calibration: Path
) -> None:
    """GPT-2 has no position beyond its context, where it would fail."""
    monkeypatch.chdir(tmp_path)
    save_model(Path("model"), "gpt2")
    assert run("init", "model", "--calibration", str(calibration)).exit_code == 0
    result = run("ask", "the " * 124 + "sea is", "--json")
    assert result.exit_code == 0, result.stderr
    assert len(said(result)["answer"].split()) <= 1


def test_asking_changes_nothing(edited: Store) -> None:
    before = content(edited.path)
    run("ask", FRANCE.prompt)
    assert content(edited.path) == before


def test_an_unknown_version_is_an_error(edited: Store) -> None:
    result = run("ask", FRANCE.prompt, "--version", "good")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no version is called 'good'" in result.stderr
    assert "hint: " in result.stderr


def test_a_damaged_shard_is_refused_not_ignored(edited: Store) -> None:
    edited.blob_path("HEAD", "shard-0000.safetensors").write_bytes(b"changed")
    result = run("ask", FRANCE.prompt)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "is damaged" in result.stderr
    assert "`editcli verify`" in result.stderr


def test_a_store_is_found_from_a_folder_below(
    edited: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("below/here").mkdir(parents=True)
    monkeypatch.chdir("below/here")
    assert run("ask", FRANCE.prompt).stdout == "Rome\n"


def test_a_base_that_moved_away_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path, calibration: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model_folder, "mine")
    assert run("init", "mine", "--calibration", str(calibration)).exit_code == 0
    answer = run("ask", FRANCE.prompt, "-q").stdout
    shutil.move("mine", "elsewhere")
    result = run("ask", FRANCE.prompt)
    assert (result.exit_code, result.stdout) == (1, "")
    assert str(tmp_path / "mine") in result.stderr
    assert "`EDITCLI_MODEL=FOLDER editcli ...`" in result.stderr
    monkeypatch.setenv("EDITCLI_MODEL", "elsewhere")
    assert run("ask", FRANCE.prompt, "-q").stdout == answer
    save_model(Path("another"), "mistral")
    monkeypatch.setenv("EDITCLI_MODEL", "another")
    assert "the store was made on" in run("ask", FRANCE.prompt).stderr
