"""`editcli ask --chat` and `editcli check --chat`: prompts as turns of chats."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_edits import FACTS, FRANCE, JAPAN
from tiny_models import CHAT, build_tokenizer
from tiny_stores import json_of, run, save_facts

from editcli.store.store import Store
from editors import Fact, Probe

SYSTEM = "Ann works in Rome ."
KENYA = "the sea of Kenya is"
FULL = replace(
    FRANCE,
    rephrases=("what is the capital of France ?",),
    locality=(
        Probe(KENYA, kind="relation"),
        Probe("the river of Kenya is", kind="mention"),
        Probe("who plays the piano ?"),
    ),
    portability=(Probe("who works in the capital of France ?", "Ann"),),
    ground_truth="Paris",
)


def asked(*words: str) -> dict[str, Any]:
    """The JSON of `editcli ask WORDS...`."""
    result = run("ask", *words, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    return json_of(result)


def checked(facts: list[Fact], *words: str) -> dict[str, Any]:
    """The JSON of `editcli check --chat` on a file of `facts`."""
    file = str(save_facts(Path("facts.jsonl"), facts))
    result = run("check", file, "--chat", "--json", *words)
    assert (result.exit_code, result.stderr) == (0, "")
    return json_of(result)


def test_a_prompt_is_asked_as_a_turn_of_a_chat_with_or_without_a_system_turn(
    chatting: Store,
) -> None:
    answers = [
        asked(KENYA, *form)["answer"]
        for form in ([], ["--chat"], ["--system", SYSTEM], ["--system", "Bob sees Paris ."])
    ]
    assert len(set(answers)) == 4
    assert asked(KENYA, "--chat", "--system", SYSTEM)["answer"] == answers[2], "it implies --chat"


def test_an_edit_answers_in_a_chat(chatting: Store) -> None:
    record = asked(FRANCE.prompt, "--chat")
    assert (record["answer"], record["edited"], record["fact"]) == ("Rome", True, FRANCE.id)


def test_a_passage_stands_in_the_turn_of_the_question(chatting: Store) -> None:
    joined = asked(f"{SYSTEM} {KENYA}", "--chat")
    assert asked(KENYA, "--chat", "--context", SYSTEM) == joined
    assert asked(KENYA, "--system", SYSTEM)["answer"] != joined["answer"]


def test_the_fact_of_in_context_stands_in_the_system_turn(
    edited_by: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch, chat_model: Path
) -> None:
    edited_by("in-context")
    monkeypatch.setenv("EDITCLI_MODEL", str(chat_model))
    told = f"Answer by this fact, whatever you remember: {FRANCE.prompt} {FRANCE.target}."
    record = asked(FRANCE.prompt, "--chat")
    assert (record["edited"], record["fact"]) == (True, FRANCE.id)
    assert record["answer"] == asked(FRANCE.prompt, "--base", "--system", told)["answer"]


@pytest.mark.parametrize(
    "words",
    [
        ["ask", FRANCE.prompt, "--chat"],
        ["ask", "-", "--system", SYSTEM],
        ["check", "--chat"],
        ["check", "--system", SYSTEM],
    ],
    ids=" ".join,
)
def test_without_a_chat_template_chats_are_refused_before_the_weights_are_loaded(
    edited: Store, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setattr("editcli.models.loading.load_weights", None)
    result = run(*words, stdin="")
    assert (result.exit_code, result.stdout) == (2, "")
    error, _, hint = result.stderr.splitlines()
    assert error.endswith("has no chat template, so it cannot be asked in chats")
    assert hint.startswith("hint: leave `--chat` and `--system` out")


def test_a_template_that_takes_no_system_turn_says_so(
    edited: Store, monkeypatch: pytest.MonkeyPatch, model_folder: Path
) -> None:
    picky = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    shutil.copytree(model_folder, "picky")
    build_tokenizer(chat_template=picky + CHAT).save_pretrained("picky")
    monkeypatch.setenv("EDITCLI_MODEL", "picky")
    assert asked(FRANCE.prompt, "--chat")["answer"] == "Rome"
    result = run("ask", FRANCE.prompt, "--system", SYSTEM)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "chat template refuses these turns: no system" in result.stderr


# --- check ----------------------------------------------------------------------------------------


def test_both_forms_are_full_blocks_and_the_top_level_is_the_plain_one(chatting: Store) -> None:
    record = checked([FULL, *FACTS[1:]], "--per-fact")
    forms = record.pop("forms")
    plain = json_of(run("check", "facts.jsonl", "--json", "--per-fact"))
    assert record == plain
    assert list(forms) == ["plain", "chat"]
    about = {key: plain[key] for key in ("schema", "version", "facts", "protocol", "missed")}
    assert {**about, **forms["plain"]} == plain
    assert forms["chat"].keys() == forms["plain"].keys()
    assert forms["chat"]["n"] == forms["plain"]["n"]
    assert forms["chat"]["ci95"].keys() == forms["plain"]["ci95"].keys()
    answers = {score["id"]: score["answer"] for score in forms["chat"]["per_fact"]}
    for fact in FACTS:
        beginning = asked(fact.prompt, "--chat", "--max-new-tokens", "3")["answer"]
        assert answers[fact.id].startswith(beginning)


def test_in_chats_an_answer_counts_that_says_the_target(chatting: Store) -> None:
    first, second, *_ = asked(KENYA, "--chat")["answer"].split()
    assert first != second
    record = checked([Fact(KENYA, second)])
    chat = record["forms"]["chat"]
    assert {key: chat["readings"][key]["reliability"] for key in ("starts", "said")} == {
        "starts": 0.0,
        "said": 1.0,
    }
    assert chat["reliability"] == 1.0
    plain = record["forms"]["plain"]
    assert plain["reliability"] == plain["readings"]["starts"]["reliability"]


@pytest.mark.parametrize("system", [[], ["--system", SYSTEM]], ids=["alone", "system"])
def test_locality_in_chats_compares_with_the_base_in_the_same_chat(
    chatting: Store, system: list[str]
) -> None:
    in_chat = asked(KENYA, "--chat", *system, "--base")["answer"]
    assert in_chat != asked(KENYA, "--base")["answer"]
    whole = {"near": 1.0, "far": 1.0, "all": 1.0, "identical": 1.0}
    locality = checked([FULL], *system)["forms"]["chat"]["locality"]
    assert {key: locality[key] for key in whole} == whole
    assert {locality["kinds"][key] for key in ("relation", "mention")} == {1.0}


def test_the_system_turn_is_in_every_chat_that_is_checked(chatting: Store) -> None:
    answer = asked(FRANCE.prompt, "--system", SYSTEM, "--max-new-tokens", "3")["answer"]
    record = checked([FRANCE], "--system", SYSTEM, "--per-fact")
    assert record["per_fact"][0]["answer"] == "Rome"
    assert record["forms"]["chat"]["per_fact"][0]["answer"].startswith(answer)


def test_the_table_shows_both_forms_on_a_terminal(chatting: Store) -> None:
    file = str(save_facts(Path("facts.jsonl"), [FULL, *FACTS[1:]]))
    lines = run("check", file, "--chat", "--per-fact").stdout.splitlines()
    table = [line.split("\t") for line in lines]
    head = ["score", "plain", "95 %, plain", "chat", "95 %, chat", "n"]
    assert table[1] == head
    rows = [row for row in table if len(row) == len(head)]
    assert {"reliability", "near, relation", "bit-identical logits"} <= {row[0] for row in rows}
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    assert sum(widths) + 2 * len(widths) <= 80
    texts = [line for line, row in zip(lines, table, strict=True) if len(row) == 1]
    assert max(map(len, texts)) <= 80
    for what in ("rel. / gen.: exact", "teacher-forced: reliability", "retention, newest first"):
        assert [line.partition(",")[0] for line in texts if f", {what}" in line] == [
            "plain",
            "chat",
        ]
    facts = [row for row in table if row[0] in {FULL.id, JAPAN.id}]
    assert [row[1] for row in facts] == ["plain", "plain", "chat", "chat"]


def test_a_minimum_holds_in_both_forms(chatting: Store) -> None:
    reliability = json_of(run("check", "--chat", "--json"))["forms"]["chat"]["reliability"]
    assert reliability < 1.0
    result = run("check", "--chat", "--min-reliability", "1", "--min-locality", "1", "-q")
    assert (result.exit_code, result.stdout) == (3, "v0002\n")
    assert result.stderr.splitlines() == [
        "warning: locality cannot be at least 1.0: no fact has `locality` prompts",
        f"warning: reliability in chats {reliability:.4f} is below 1.0",
    ]
    assert run("check", "--min-reliability", "1").exit_code == 0


def test_a_prompt_that_fits_alone_and_not_in_a_chat_is_named(chatting: Store) -> None:
    long = Fact("the " * 124 + "sea", "blue")
    file = str(save_facts(Path("facts.jsonl"), [FRANCE, long]))
    assert run("check", file).exit_code == 0
    result = run("check", file, "--system", "Ann works in Rome with Bob .")
    assert (result.exit_code, result.stdout) == (4, "")
    assert "\nfacts.jsonl:2: prompt: prompt and target have " in result.stderr
