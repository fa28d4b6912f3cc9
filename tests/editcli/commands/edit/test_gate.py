"""Edits that count only if they reach what is asked of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_edits import FRANCE, FRANCE_AGAIN, JAPAN
from tiny_stores import content, in_force, json_of, run, save_facts

from editcli.store.store import Store


@pytest.fixture
def canaries() -> str:
    """What must stay as it is: Japan's language, which an edit of it takes away."""
    return str(save_facts(Path("canaries.jsonl"), [JAPAN]))


def test_an_edit_below_a_minimum_is_kept_as_rejected_and_head_stays(
    edited: Store, canaries: str
) -> None:
    before = in_force(edited)
    words = (JAPAN.prompt, "red", "-s", "Japan", "--canaries", canaries, "--min-reliability", "1")
    result = run("edit", *words, "--json")
    assert result.exit_code == 3
    assert "v0003 is kept as rejected, and HEAD stays at v0002: reliability 0.0" in result.stderr
    record = json_of(result)
    assert (record["version"], record["applied"]) == ("v0003", 1)
    assert record["missed"] == ["reliability 0.0000 is below 1.0"]
    assert edited.head().id == "v0002"
    assert in_force(edited) == before
    assert run("ask", JAPAN.prompt, "-q").stdout == f"{JAPAN.target}\n"
    assert run("ask", JAPAN.prompt, "--version", "v0003", "-q").stdout == "red\n"
    assert "(rejected)" in run("log").stdout
    assert edited.scores(edited.version("v0003"))[0]["forms"]["plain"]["reliability"] == 0
    assert edited.verify() == []
    assert run("checkout", "v0003").exit_code == 0
    assert edited.head().id == "v0003"


def test_an_edit_that_reaches_the_minima_counts(edited: Store, canaries: str) -> None:
    facts = str(save_facts(Path("facts.jsonl"), [FRANCE_AGAIN]))
    result = run("apply", facts, "--canaries", canaries, "--min-reliability", "1", "--json")
    assert result.exit_code == 0, result.stderr
    assert (json_of(result)["missed"], edited.head().id) == ([], "v0003")
    after = run("edit", FRANCE.prompt, FRANCE.target, "-s", "France", "--min-reliability", "1")
    assert after.exit_code == 0
    assert edited.head().id == "v0004"


def test_a_minimum_that_nothing_is_measured_for_is_missed(edited: Store) -> None:
    fact = replace(FRANCE_AGAIN, rephrases=())
    facts = str(save_facts(Path("facts.jsonl"), [fact]))
    result = run("apply", facts, "--min-generalization", "0.5")
    assert result.exit_code == 3
    assert "no fact has `rephrases`" in result.stderr


def test_canaries_without_a_minimum_are_a_usage_error(edited: Store, canaries: str) -> None:
    before = content(edited.path)
    result = run("edit", FRANCE.prompt, "Lima", "--canaries", canaries)
    assert result.exit_code == 2
    assert "no minimum is given" in result.stderr
    assert run("apply", "none.jsonl", "--canaries", "absent.jsonl", "--min-locality", "1").exit_code
    assert content(edited.path) == before
