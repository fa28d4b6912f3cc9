"""`editcli ask`: the answer on stdout, and whether an edit gave it and why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_edits import FACTS, FRANCE, FRANCE_AGAIN, JAPAN, PERU
from tiny_stores import content, json_of, place_of, run, save_model

from editcli.store.store import Store
from editors import Fact

KEYS = {
    *("schema", "answer", "edited", "fact", "score", "threshold", "closed", "yielded", "prefer"),
}
WISE_KEYS = KEYS | {"shard"}
ELSEWHERE = "the sea of Kenya is"


@pytest.mark.parametrize(("fact", "shard"), [(FRANCE, 0), (JAPAN, 0), (PERU, 1)])
def test_an_edited_prompt_is_answered_by_its_shard(edited: Store, fact: Fact, shard: int) -> None:
    result = run("ask", fact.prompt, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    record = json_of(result)
    assert set(record) == WISE_KEYS
    assert (record["answer"], record["edited"], record["fact"]) == (fact.target, True, fact.id)
    assert record["shard"] == shard
    assert record["score"] > record["threshold"]


def test_a_prompt_that_names_no_subject_is_answered_by_the_base(edited: Store) -> None:
    record = json_of(run("ask", ELSEWHERE, "--json"))
    assert record == {
        "schema": 2,
        "answer": json_of(run("ask", ELSEWHERE, "--base", "--json"))["answer"],
        "edited": False,
        "fact": None,
        "score": None,
        "threshold": None,
        "closed": False,
        "yielded": False,
        "shard": None,
        "prefer": None,
    }


def test_of_the_base_alone_nothing_is_decided(edited: Store) -> None:
    record = json_of(run("ask", FRANCE.prompt, "--base", "--json"))
    assert set(record) == KEYS
    assert record["answer"] != FRANCE.target
    assert record["edited"] is False
    none = ("fact", "score", "threshold", "prefer")
    assert [record[key] for key in none] == [None] * len(none)
    assert (record["closed"], record["yielded"]) == (False, False)


def test_people_read_the_answer_and_who_gave_it_apart(edited: Store) -> None:
    by_edit = run("ask", FRANCE.prompt)
    assert by_edit.stdout == "Rome\n"
    start = f"side memory, shard 0, fact {FRANCE.id}: score 1.000, threshold 0."
    assert by_edit.stderr.startswith(start)
    by_base = run("ask", ELSEWHERE, "--max-new-tokens", "2")
    assert len(by_base.stdout.splitlines()) == 1
    assert by_base.stderr.splitlines() == [
        "the answer is cut off; `--max-new-tokens` sets how long it may be",
        "the base model: no edit claims this prompt",
    ]
    base = run("ask", FRANCE.prompt, "--base", "--max-new-tokens", "2")
    assert base.stdout != "Rome\n"
    assert base.stderr.endswith("\nthe base model, without edits\n")


def test_a_prompt_too_far_from_the_edits_gets_the_score_that_kept_it_out(edited: Store) -> None:
    prompt = "the river of France is"  # the subject is edited, the relation is not
    record = json_of(run("ask", prompt, "--json"))
    assert (record["edited"], record["fact"]) == (False, None)
    assert record["score"] <= record["threshold"]
    scores = f"score {record['score']:.3f}, threshold {record['threshold']:.3f}"
    assert run("ask", prompt).stderr.splitlines()[-1] == f"the base model: {scores}"


def test_a_fact_that_was_taken_back_is_named_as_such(edited: Store) -> None:
    assert run("undo", FRANCE.id).exit_code == 0
    record = json_of(run("ask", FRANCE.prompt, "--json"))
    assert (record["edited"], record["fact"], record["closed"]) == (False, None, True)
    reason = run("ask", FRANCE.prompt).stderr
    assert reason.endswith(
        f"the base model: the prompt asks for fact {FRANCE.id}, which was undone\n"
    )


def test_quiet_prints_the_answer_alone(edited: Store) -> None:
    result = run("ask", FRANCE.prompt, "-q")
    assert (result.stdout, result.stderr) == ("Rome\n", "")


def test_every_version_answers_for_itself(edited: Store) -> None:
    before = run("ask", FRANCE.prompt, "--version", "v0001", "--json")
    base = run("ask", FRANCE.prompt, "--base", "--json")
    assert json_of(before) == {**json_of(base), "edited": False, "shard": None}
    assert run("tag", "good").exit_code == 0
    assert run("edit", FRANCE.prompt, "Lima", "-s", "France").exit_code == 0
    assert run("ask", FRANCE.prompt).stdout == "Lima\n"
    assert run("ask", FRANCE.prompt, "--version", "good").stdout == "Rome\n"


def test_a_passage_is_read_before_the_question(edited: Store) -> None:
    with_context = json_of(run("ask", FRANCE.prompt, "--context", "Ann lives in Oslo.", "--json"))
    joined = json_of(run("ask", f"Ann lives in Oslo. {FRANCE.prompt}", "--json"))
    assert with_context == joined


def test_a_prompt_longer_than_the_context_is_an_error(edited: Store) -> None:
    result = run("ask", "the " * 130 + "sea is")
    assert (result.exit_code, result.stdout) == (1, "")
    sentence = "error: a prompt has 133 tokens, and the model takes 128 with its answer: "
    assert result.stderr.startswith(sentence)
    assert "\nhint: shorten the prompt\n" in result.stderr


def test_an_answer_ends_where_the_context_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calibration: Path
) -> None:
    """GPT-2 has no position beyond its context, where it would fail."""
    monkeypatch.chdir(tmp_path)
    save_model(Path("model"), "gpt2")
    assert run("init", "model", "--calibration", str(calibration)).exit_code == 0
    result = run("ask", "the " * 124 + "sea is", "--json")
    assert result.exit_code == 0, result.stderr
    assert len(json_of(result)["answer"].split()) <= 1


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
    place_of(edited, "shard-0000.safetensors").write_bytes(b"changed")
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


# --- other methods --------------------------------------------------------------------------------


def test_in_context_puts_the_fact_before_the_prompt_and_says_so(
    edited_by: Callable[[str], Store],
) -> None:
    store = edited_by("in-context")
    written_out = f"{FRANCE.prompt} {FRANCE.target}.\n{FRANCE.prompt}"  # the default template
    answer = json_of(run("ask", written_out, "--base", "--json"))["answer"]
    assert answer != json_of(run("ask", FRANCE.prompt, "--base", "--json"))["answer"]
    record = json_of(run("ask", FRANCE.prompt, "--json"))
    assert set(record) == KEYS
    assert (record["answer"], record["edited"], record["fact"]) == (answer, True, FRANCE.id)
    assert record["score"] > record["threshold"]
    result = run("ask", FRANCE.prompt)
    assert result.stdout == f"{answer}\n"
    assert result.stderr.splitlines()[-1] == (
        f"fact {FRANCE.id} was put before the prompt: "
        f"score {record['score']:.3f}, threshold {record['threshold']:.3f}"
    )
    assert store.head().id == "v0002"


def test_in_context_leaves_a_prompt_alone_that_no_fact_claims(
    edited_by: Callable[[str], Store],
) -> None:
    edited_by("in-context")
    record = json_of(run("ask", ELSEWHERE, "--json"))
    base = json_of(run("ask", ELSEWHERE, "--base", "--json"))
    assert record == {**base, "edited": False}
    by_base = run("ask", ELSEWHERE)
    assert by_base.stderr.endswith("\nthe base model: no edit claims this prompt\n")


def test_in_context_a_fact_that_was_taken_back_is_put_before_no_prompt(
    edited_by: Callable[[str], Store],
) -> None:
    edited_by("in-context")
    base = json_of(run("ask", FRANCE.prompt, "--base", "--json"))
    assert run("undo", FRANCE.id).exit_code == 0
    record = json_of(run("ask", FRANCE.prompt, "--json"))
    assert (record["answer"], record["edited"]) == (base["answer"], False)
    assert (record["fact"], record["closed"]) == (None, True)
    reason = run("ask", FRANCE.prompt).stderr
    assert reason.endswith(
        f"the base model: the prompt asks for fact {FRANCE.id}, which was undone\n"
    )
    assert json_of(run("ask", JAPAN.prompt, "--json"))["fact"] == JAPAN.id


def test_ft_m_answers_every_prompt_and_nothing_is_decided(
    edited_by: Callable[[str], Store],
) -> None:
    edited_by("ft-m")
    for fact in FACTS:
        record = json_of(run("ask", fact.prompt, "--json"))
        assert record == {
            "schema": 2,
            "answer": fact.target,
            "edited": None,
            "fact": None,
            "score": None,
            "threshold": None,
            "closed": False,
            "yielded": False,
            "prefer": None,
        }
    result = run("ask", FRANCE.prompt)
    assert result.stdout == "Rome\n"
    assert result.stderr == "fine-tuned weights, which answer every prompt\n"


def test_ft_m_names_the_base_where_nothing_was_fine_tuned(
    edited_by: Callable[[str], Store],
) -> None:
    edited_by("ft-m")
    before = run("ask", FRANCE.prompt, "--version", "v0001")
    base = run("ask", FRANCE.prompt, "--base")
    assert before.stdout == base.stdout
    assert "fine-tuned weights" not in before.stderr
    assert before.stderr.splitlines()[-1].startswith("the base model")
    assert run("edit", FRANCE.prompt, FRANCE_AGAIN.target, "-s", "France").exit_code == 0
    assert "fine-tuned weights" in run("ask", FRANCE.prompt).stderr
