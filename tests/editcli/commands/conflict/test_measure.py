"""`editcli conflict measure`: passage or memory, how often each answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tiny_edits import FRANCE
from tiny_stores import content, json_of, run
from typer.testing import Result

from editcli.store.store import Store

Rows = list[dict[str, Any]]
Save = Callable[[Rows], None]
Sentence = Callable[[Result], str]

RATES = {"rows", "memory", "context", "other", "ci95"}
MEASURED = RATES | {
    *("memorization_ratio", "several_named", "first_token", "by_kind", "by_relation"),
    *("bcu", "ccu", "without_passage", "known", "unknown"),
}


def measure(*words: str) -> Result:
    return run("conflict", "measure", "c.jsonl", *words)


def test_measure_tells_who_wins(store: Store, rows: Rows) -> None:
    result = measure("--json")
    assert (result.exit_code, result.stderr) == (0, "")
    record = json_of(result)
    assert set(record) == {"schema", "version", "split"} | MEASURED
    assert (record["version"], record["split"], record["rows"]) == ("v0002", "all", 15)
    assert record["first_token"] == {"memory": 0.6, "context": 0.4, "other": 0.0}
    # A memory answer is the model's first word, so that it is named wherever the model says it.
    assert (record["memory"], record["context"]) == pytest.approx((0.6, 0.4))
    assert record["memorization_ratio"] == pytest.approx(0.6)
    assert set(record["by_kind"]) == {"substitution"}
    assert set(record["by_kind"]["substitution"]) == RATES | {"bcu", "ccu"}
    assert set(record["by_relation"]) == {row["relation"] for row in rows}
    assert sum(part["rows"] for part in record["by_relation"].values()) == 15
    assert all(0 <= low <= high <= 1 for low, high in record["ci95"].values())


def test_measure_elicits_memory_s_answers_where_they_are_missing(
    store: Store, rows: Rows, save: Save
) -> None:
    given = json_of(measure("--json"))
    save([{k: v for k, v in row.items() if k != "memory_answer"} for row in rows])
    elicited = json_of(measure("--json"))
    assert elicited["first_token"] == given["first_token"], "an answer begins with the same word"
    assert elicited["context"] == given["context"]


def test_known_and_unknown_facts_are_told_apart(store: Store, rows: Rows, save: Save) -> None:
    """A fact is known if the model answers its question without the passage as memory does."""
    unknown, elicited = rows[:4], rows[4:7]
    for row in unknown:
        row["memory_answer"] = "nothing"
    for row in elicited:
        del row["memory_answer"]
    save(rows)
    record = json_of(measure("--json", "--per-row"))
    told = [row["known"] for row in record["per_row"]]
    assert told == [False] * 4 + [None] * 3 + [True] * 8, "a memory answer is the first word"
    facts = {
        name: len({row["question"] for row, known in zip(rows, told, strict=True) if known is what})
        for name, what in (("known", True), ("unknown", False), ("elicited", None))
    }
    assert record["without_passage"] == {"asked": sum(facts.values()), **facts}
    outcomes = [row["outcome"] for row in record["per_row"]]
    for name, what in (("known", True), ("unknown", False)):
        group = [o for o, known in zip(outcomes, told, strict=True) if known is what]
        assert set(record[name]) == RATES
        assert record[name]["rows"] == len(group)
        assert record[name]["memory"] == pytest.approx(group.count("memory") / len(group))
        assert record[name]["context"] == pytest.approx(group.count("context") / len(group))
    lines = measure().stdout.splitlines()
    assert [line.split("\t")[0] for line in lines[2:5]] == ["all conflicting", "known", "unknown"]
    assert lines[-2] == (
        f"without a passage: {facts['known']} of {sum(facts.values())} facts known, "
        f"{facts['unknown']} unknown, {facts['elicited']} without a stated answer"
    )


def test_a_fact_that_was_edited_is_known(store: Store, save: Save) -> None:
    save([{"question": FRANCE.prompt, "context": "so Lima .", "context_answer": "Lima"}])
    record = json_of(measure("--json"))
    assert record["without_passage"] == {"asked": 1, "known": 1, "unknown": 0, "elicited": 0}
    before = json_of(measure("--json", "--version", "v0001"))
    assert before["without_passage"] == {"asked": 1, "known": 0, "unknown": 0, "elicited": 1}


def test_measure_takes_a_split_a_number_of_rows_and_a_row_s_outcome(
    store: Store, rows: Rows, save: Save, sentence_of: Sentence
) -> None:
    record = json_of(measure("--split", "dev", "--json", "--per-row"))
    assert record["rows"] == 5
    assert [row["question"] for row in record["per_row"]] == [
        row["question"] for row in rows if row["split"] == "dev"
    ]
    assert {row["outcome"] for row in record["per_row"]} == {"memory", "context"}
    assert json_of(measure("--limit", "2", "--json"))["rows"] == 2
    save([row for row in rows if row["split"] == "dev"])
    assert "no row of c.jsonl is in the split 'test'" in sentence_of(measure("--split", "test"))


def test_measure_tells_rows_about_edits_apart_by_what_the_passage_says(
    store: Store, save: Save
) -> None:
    """Four outcomes: the edit's answer, the passage's, that from before the edit, another."""
    answers = {"agrees": "Rome", "stale": None, "third": "Lima", "irrelevant": ""}
    base = json_of(run("ask", FRANCE.prompt, "--base", "--json"))["answer"]
    before = " ".join(base.split()[:5])
    save(
        [
            {
                "question": FRANCE.prompt,
                "context": f"so {before if answer is None else answer or 'far'} .",
                "context_answer": before if answer is None else answer,
                "kind": "substitution" if answer != "" else "irrelevant",
            }
            for answer in answers.values()
        ]
    )
    record = json_of(measure("--json"))
    assert record["rows"] == 2, "the stale passage and the third answer speak against the edit"
    edited = record["about_edits"]
    assert edited["rows"] == 4
    assert set(edited["by_state"]) == set(answers)
    for part in (edited, *edited["by_state"].values()):
        shares = [part[name] for name in ("edit", "context", "before", "other")]
        assert sum(shares) == pytest.approx(1.0)
    assert edited["router"]["opened_without_passage"] == 1.0
    assert 0.0 <= edited["router"]["opened_with_passage"] <= 1.0
    lines = measure().stdout.splitlines()
    assert "passage\trows\tedit\tcontext\tbefore\tother" in lines
    older = json_of(measure("--version", "v0001", "--json"))
    assert "edited" not in older, "before any edit there is none to tell"


@pytest.mark.parametrize("method", ["in-context", "ft-m"])
def test_rows_about_edits_are_told_apart_whatever_the_method(
    edited_by: Callable[[str], Store], rows: Rows, save: Save, method: str
) -> None:
    edited_by(method)
    about_france = {"question": FRANCE.prompt, "context": "so Lima .", "context_answer": "Lima"}
    save([about_france, *rows])
    record = json_of(measure("--json"))
    assert record["rows"] == 16
    assert record["about_edits"]["rows"] == record["about_edits"]["by_state"]["third"]["rows"] == 1
    decided = record["about_edits"].get("router")
    assert (decided is None) == (method == "ft-m"), "what is always on decides nothing"


def test_people_read_a_table(store: Store) -> None:
    result = measure()
    lines = result.stdout.splitlines()
    assert lines[0] == "v0002: 15 rows, 15 conflicting"
    assert lines[1].split("\t") == [
        *("rows", "memory", "context", "other", "n", "95 % memory", "BCU", "CCU")
    ]
    assert lines[2].startswith("all conflicting\t0.600\t0.400\t0.000\t15\t")
    assert lines[-1].startswith("memorization ratio 0.600, BCU 0.400, CCU ")


def test_where_nothing_conflicts_ratios_are_undefined(store: Store, rows: Rows, save: Save) -> None:
    save([{**rows[0], "kind": "irrelevant"}])
    record = json_of(measure("--json"))
    assert (record["rows"], record["memory"], record["memorization_ratio"]) == (0, None, None)
    assert record["by_kind"]["irrelevant"]["rows"] == 1
    assert "memorization ratio undefined" in measure().stdout


def test_the_bar_moves_with_each_question(
    store: Store, rows: Rows, save: Save, stages: list[list[Any]]
) -> None:
    save([{k: v for k, v in row.items() if k != "memory_answer"} for row in rows])
    measure()
    questions = {row["question"] for row in rows}
    prompts = {f"{row['context']} {row['question']}" for row in rows}
    assert [stage[1:] for stage in stages] == [
        [len(questions)] * 2,
        [len(questions) + len(prompts)] * 2,
    ]


def test_measuring_changes_nothing(store: Store) -> None:
    before = content(store.path)
    measure()
    assert content(store.path) == before


def test_a_passage_longer_than_the_context_is_an_error(
    store: Store, rows: Rows, save: Save, sentence_of: Sentence
) -> None:
    for length, room in ((130, 1), (117, 6)):
        long = {**rows[0], "context": "red " * length}
        save([long, *rows])
        result = measure()
        assert result.exit_code == 1
        sentence = f"a prompt has {length + 6} tokens, its answer up to {room}, and the model takes"
        assert sentence_of(result).startswith(f"{sentence} 128")
    save([{"question": "red " * 112 + "is", "context": "Ann .", "context_answer": "red"}])
    assert "its answer up to 16, and the model takes 128" in sentence_of(measure())
