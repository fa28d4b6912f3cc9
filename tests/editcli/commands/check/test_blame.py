"""`editcli blame`: which edit answers a prompt, and who made it."""

from __future__ import annotations

from tiny_edits import FRANCE
from tiny_stores import json_of, run

from editcli.store.store import Store


def test_blame_tells_the_fact_that_answers_and_its_past(edited: Store) -> None:
    record = json_of(run("blame", FRANCE.prompt, "--json"))
    assert record["fact"] == FRANCE.id
    assert record["past"]["entered"]["version"] == "v0002"
    assert record["past"]["content"]["target"] == FRANCE.target
    asked = json_of(run("ask", FRANCE.prompt, "--json"))
    assert {key: record[key] for key in ("fact", "score")} == {
        key: asked[key] for key in ("fact", "score")
    }
    told = run("blame", FRANCE.prompt)
    assert told.stdout.startswith(f"id\t{FRANCE.id}\n")


def test_a_prompt_of_the_base_has_nobody_to_blame(edited: Store) -> None:
    result = run("blame", "the sea of Kenya is")
    assert (result.exit_code, result.stdout) == (0, "no edit answers this prompt\n")
    assert json_of(run("blame", "the sea of Kenya is", "--json"))["past"] is None
