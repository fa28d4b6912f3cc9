"""`editcli check`: the scores of a version, and exit 3 below a threshold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_edits import FACTS, FRANCE, FRANCE_AGAIN
from tiny_stores import content, json_of, run, save_facts

from editcli.store.store import Store
from editors import Probe

KEYS = {
    *("schema", "version", "facts", "protocol", "reliability", "generalization", "locality"),
    *("portability", "routing", "ci95", "retention", "teacher_forced", "old_answers", "n"),
    *("readings", "missed"),
}
NOT_MEASURED = dict.fromkeys(("relation", "subject", "mention", "name", "time", "amount"))
# No edit is about Kenya, so no answer about it may change.
FULL = replace(
    FRANCE,
    rephrases=("what is the capital of France ?",),
    locality=(
        Probe("the sea of Kenya is", kind="near"),
        Probe("the capital of Kenya is", kind="relation"),
        Probe("the river of Kenya is"),
    ),
    portability=(Probe("who works in the capital of France ?", "Ann"),),
    ground_truth="Paris",
)


def test_the_record_has_every_score_with_its_n_and_interval(edited: Store) -> None:
    file = str(save_facts(Path("facts.jsonl"), [FULL, *FACTS[1:]]))
    result = run("check", file, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    record = json_of(result)
    assert set(record) == KEYS
    assert (record["version"], record["facts"], record["protocol"]) == ("v0002", 4, "both")
    assert record["reliability"] == 1.0
    whole = {"near": 1.0, "far": 1.0, "all": 1.0, "identical": 1.0}
    assert record["locality"] == {**whole, "kinds": {**NOT_MEASURED, "relation": 1.0}}
    assert list(record["readings"]) == ["exact", "starts", "said"]
    for scores in record["readings"].values():
        assert set(scores) == {"reliability", "generalization"}
        assert scores["reliability"] == 1.0
    assert record["generalization"] == record["readings"]["starts"]["generalization"]
    assert set(record["routing"]) == {"opened_in_scope", "opened_out_of_scope"}
    assert record["routing"]["opened_out_of_scope"] == 0.0
    assert set(record["teacher_forced"]) == {"reliability", "generalization", "locality"}
    assert record["n"] == {
        "reliability": 4,
        "generalization": 1,
        "portability": 1,
        "old_answers": 2,
        "locality": 3,
        "locality_near": 2,
        "locality_relation": 1,
        "locality_far": 1,
        "identical": 3,
        "opened_in_scope": 5,
        "opened_out_of_scope": 3,
    }
    assert set(record["ci95"]) == set(record["n"])
    assert all(0 <= low <= high <= 1 for low, high in record["ci95"].values())
    ages = [band["age"] for band in record["retention"]]
    assert ages == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert [band["reliability"] for band in record["retention"]] == [1.0] * 4


def test_without_a_file_a_version_is_asked_its_own_facts(edited: Store) -> None:
    assert run("edit", FRANCE.prompt, "Lima", "-s", "France").exit_code == 0
    newest = json_of(run("check", "--json", "--per-fact"))
    assert (newest["version"], newest["reliability"]) == ("v0003", 1.0)
    older = json_of(run("check", "--version", "v0002", "--json", "--per-fact"))
    assert (older["version"], older["reliability"]) == ("v0002", 1.0)
    for record, answer in ((newest, "Lima"), (older, "Rome")):
        [score] = [s for s in record["per_fact"] if s["answer"] == answer]
        assert set(score) == {"id", "answer", "reliable", "rephrases", "near", "far"}
        assert score["reliable"]


def test_what_was_not_measured_is_null_in_json_and_absent_from_the_table(edited: Store) -> None:
    record = json_of(run("check", "--json"))
    assert record["generalization"] is record["readings"]["said"]["generalization"] is None
    whole = {"near": None, "far": None, "all": None, "identical": None}
    assert record["locality"] == {**whole, "kinds": NOT_MEASURED}
    lines = run("check").stdout.splitlines()
    assert lines[0] == "v0002: 4 facts"
    assert lines[1].split("\t") == ["score", "value", "95 %", "n", "teacher-forced"]
    assert lines[2].startswith("reliability\t1.000\t")
    assert not any(line.startswith(("generalization", "locality", "near")) for line in lines)
    assert "readings, rel. / gen.: exact 1.00, starts 1.00, said 1.00" in lines


def test_the_table_has_the_kinds_of_probes_that_there_are_and_fits_a_terminal(
    edited: Store,
) -> None:
    file = str(save_facts(Path("facts.jsonl"), [FULL, *FACTS[1:]]))
    lines = run("check", file).stdout.splitlines()
    names = [line.partition("\t")[0] for line in lines]
    near = names.index("locality, near")
    assert names[near : near + 4] == [
        *("locality, near", "near, relation", "locality, far", "locality, all"),
    ]
    [readings] = [line for line in lines if line.startswith("readings")]
    assert readings.count(" / ") == 4
    assert max(map(len, lines)) <= 80


def test_the_protocol_decides_about_the_teacher_forced_column(edited: Store) -> None:
    assert "teacher_forced" not in json_of(run("check", "--protocol", "generate", "--json"))
    forced = json_of(run("check", "--protocol", "both", "--json"))
    assert forced["teacher_forced"]["reliability"] == 1.0
    assert run("check", "--protocol", "teacher-forced").exit_code == 2, "it was both, too"


def test_a_method_that_is_always_on_routes_nothing(edited_by: Callable[[str], Store]) -> None:
    edited_by("ft-m")
    file = str(save_facts(Path("facts.jsonl"), [FULL, *FACTS[1:]]))
    record = json_of(run("check", file, "--json"))
    assert set(record) == KEYS
    assert record["routing"] == {"opened_in_scope": None, "opened_out_of_scope": None}
    assert not {"opened_in_scope", "opened_out_of_scope"} & {*record["n"], *record["ci95"]}
    assert (record["reliability"], record["locality"]["identical"]) == (1.0, 0.0)
    lines = run("check", file).stdout.splitlines()
    assert not any(line.startswith(("routed right", "opened, out")) for line in lines)


def test_a_score_below_its_threshold_exits_with_3(edited: Store) -> None:
    file = str(save_facts(Path("facts.jsonl"), [FRANCE_AGAIN, *FACTS[1:]]))
    result = run("check", file, "--min-reliability", "0.9", "--json")
    assert result.exit_code == 3
    assert json_of(result)["reliability"] == 0.75
    assert result.stderr == "warning: reliability 0.7500 is below 0.9\n"
    assert run("check", file, "--min-reliability", "0.75").exit_code == 0
    assert run("check", "--min-reliability", "1").exit_code == 0


def test_a_threshold_on_what_was_not_measured_is_not_met(edited: Store) -> None:
    result = run("check", "--min-generalization", "0.5", "--min-locality", "0.5", "-q")
    assert result.exit_code == 3
    assert result.stdout == "v0002\n"
    assert result.stderr.splitlines() == [
        "warning: generalization cannot be at least 0.5: no fact has `rephrases`",
        "warning: locality cannot be at least 0.5: no fact has `locality` prompts",
    ]


def test_a_threshold_is_a_share(edited: Store) -> None:
    assert run("check", "--min-reliability", "90").exit_code == 2


def test_checking_changes_nothing(edited: Store) -> None:
    before, head, blobs = content(edited.path), edited.head(), edited.blobs(edited.head())
    assert run("check", "--no-save").exit_code == 0
    assert content(edited.path) == before
    assert run("check").exit_code == 0
    assert (edited.head(), edited.blobs(head)) == (head, blobs)


def test_the_scores_of_a_check_are_kept_with_the_version(edited: Store) -> None:
    measured = json_of(run("check", "--author", "cleo", "--json"))
    assert edited.history()[-1][0].who == "cleo"
    [kept] = edited.scores(edited.head())
    assert kept["forms"]["plain"]["reliability"] == measured["reliability"]
    assert (kept["of"], kept["facts"]) == ("facts in force", 4)
    assert "reliability 1.000" in run("log").stdout
    assert "reliability 1.000" in run("status").stdout
    assert edited.verify() == []
    with edited.writing("editcli apply"):
        result = run("check")
    assert result.exit_code == 0
    assert "the scores are not kept" in result.stderr


def test_facts_come_from_standard_input_too(edited: Store) -> None:
    result = run("check", "-", "--json", stdin=run("show", "--facts").stdout)
    assert json_of(result)["reliability"] == 1.0


def test_facts_come_from_a_table_too(edited: Store) -> None:
    rows = [f"{fact.prompt}\t{fact.target}\t{fact.subject}\n" for fact in FACTS]
    Path("facts.tsv").write_text("".join(["prompt\ttarget\tsubject\n", *rows]))
    assert json_of(run("check", "facts.tsv", "--json")) == json_of(run("check", "--json"))


def test_each_fact_gets_a_row_on_demand(edited: Store) -> None:
    lines = run("check", "--per-fact").stdout.splitlines()
    head = lines.index("fact\treliable\trephrases\tnear\tfar\tanswer")
    assert lines[head + 1] == f"{FRANCE.id}\tyes\t0/0\t0/0\t0/0\tRome"
    assert len(lines) == head + 1 + len(FACTS)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON: "),
        (json.dumps({"prompt": "the " * 130 + "sea", "target": "b"}), "prompt and target have 134"),
    ],
)
def test_a_bad_line_is_named_with_the_reason(edited: Store, line: str, reason: str) -> None:
    Path("facts.jsonl").write_text(f"\n{json.dumps(FRANCE.to_dict())}\n{line}\n")
    result = run("check", "facts.jsonl")
    assert (result.exit_code, result.stdout) == (4, "")
    assert "\nfacts.jsonl:3: " in result.stderr
    assert reason in result.stderr


def test_a_version_without_facts_has_nothing_to_check(empty: Store) -> None:
    result = run("check")
    assert (result.exit_code, result.stdout) == (1, "")
    error, _, hint = result.stderr.splitlines()
    assert error == "error: v0001 has no facts to check"
    assert hint == (
        "hint: `editcli apply FILE` applies some; `editcli check FILE` checks those of a file"
    )
    named = run("check", str(save_facts(Path("facts.jsonl"), FACTS)), "--json")
    assert json_of(named)["reliability"] == 0.0


def test_an_unknown_version_is_an_error_before_the_model_is_loaded(
    edited: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("editcli.operations.session.load_store_base", None)
    result = run("check", "--version", "v0009")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no version is called 'v0009'" in result.stderr
