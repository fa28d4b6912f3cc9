"""`editcli facts list`: what is believed, what was believed, since when and by whom."""

from __future__ import annotations

from typing import Any

import pytest
from json_keys import rows_of
from tiny_stores import PARIS, PARIS_AGAIN, ROME, run

from editcli.store.changes import Changes
from editcli.store.store import Store
from editors import Fact


def listed(*words: str) -> list[dict[str, Any]]:
    result = run("facts", "list", *words, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    return rows_of(result)


def test_a_user_finds_a_fact_and_undoes_it_with_two_commands(store: Store) -> None:
    with store.writing() as change:
        change.publish("edit", Changes([ROME]), who="ann")
    found = run("facts", "list", "--match", "italy", "-q").stdout.split()
    assert found == [ROME.id]
    assert run("undo", *found).exit_code == 0
    assert listed("--match", "italy") == []


def test_facts_are_listed_newest_first_with_old_and_new_answers(store: Store) -> None:
    rows = listed("--state", "all")
    assert [(row["fact"], row["state"]) for row in rows] == [
        (PARIS_AGAIN.id, "in force"),
        (ROME.id, "undone"),
        (PARIS.id, "superseded"),
    ]
    assert rows[0] == {
        "fact": PARIS_AGAIN.id,
        "prompt": PARIS_AGAIN.prompt,
        "old": PARIS.target,
        "new": PARIS_AGAIN.target,
        "state": "in force",
        "version": "v0003",
        "at": "2026-03-01T14:00:00+00:00",
        "who": "ann",
        "ended_in": None,
        "subject": "France",
        "source": None,
        "fact_tags": [],
    }
    assert [row["ended_in"] for row in rows] == [None, "v0004", "v0003"]
    assert [row["fact"] for row in listed()] == [PARIS_AGAIN.id]
    assert [row["fact"] for row in listed("--version", "first")] == [ROME.id, PARIS.id]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--match", "LYON"], [PARIS]),
        (["--match", "capital of f"], [PARIS_AGAIN, PARIS]),
        (["--match", "no such"], []),
        (["--tag", "capitals"], [ROME]),
        (["--source", "p. 3"], [PARIS]),
        (["--who", "bob"], []),
        (["--who", "ann"], [PARIS_AGAIN, ROME, PARIS]),
        (["--since", "2026-03-01T13:30+00:00"], [PARIS_AGAIN]),
        (["--since", "2026-03-02"], []),
        (["--limit", "1"], [PARIS_AGAIN]),
        (["--limit", "0"], [PARIS_AGAIN, ROME, PARIS]),
        (["--match", "france", "--limit", "1"], [PARIS_AGAIN]),
    ],
)
def test_facts_are_chosen(store: Store, words: list[str], found: list[Fact]) -> None:
    if words[:1] == ["--since"] and words[1] == "2026-03-02":
        words = ["--since", "2026-03-02T03:00+09:00"]
    assert [row["fact"] for row in listed("--state", "all", *words)] == [fact.id for fact in found]


def test_names_are_found_however_they_are_written(store: Store) -> None:
    odd = Fact("The river of Zürich is", 'the "Limmat"', subject="Zürich", aliases=("Zuerich",))
    with store.writing() as change:
        change.publish("edit", Changes([odd]))
    for text in ("ZÜRICH", "Zu\u0308rich", 'the "limmat"', "zuerich", "h is"):
        assert [row["fact"] for row in listed("--match", text)] == [odd.id], text


def test_many_facts_are_listed_in_pages_without_a_gap(store: Store) -> None:
    facts = [Fact(f"The number {n} is", f"w{n}") for n in range(1234)]
    with store.writing() as change:
        change.publish("apply", Changes(facts))
        change.publish("undo", Changes(closed={fact.id: None for fact in facts[::2]}))
    rows = listed("--match", "The number")
    kept = [fact.prompt for fact in facts[1::2]]
    assert [row["prompt"] for row in rows] == kept[::-1]
    assert [row["prompt"] for row in listed()][:-1] == [row["prompt"] for row in rows]


def test_a_date_that_is_none_is_a_usage_error(store: Store) -> None:
    result = run("facts", "list", "--since", "yesterday")
    assert result.exit_code == 2
    assert "--since takes a date or a time, not 'yesterday'" in result.stderr
