"""`editcli diff`: what two versions believe differently, on whichever branches."""

from __future__ import annotations

from typing import Any

from json_keys import rows_of
from tiny_stores import PARIS, PARIS_AGAIN, ROME, run

from editcli.store.changes import Changes
from editcli.store.store import Store
from editors import Fact


def differing(*words: str) -> list[dict[str, Any]]:
    result = run("diff", *words, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    return rows_of(result)


def test_a_prompt_is_told_once_with_both_answers(store: Store) -> None:
    assert differing("first", "HEAD") == [
        {
            "change": "changed",
            "fact": PARIS_AGAIN.id,
            "prompt": PARIS.prompt,
            "old": PARIS.target,
            "new": PARIS_AGAIN.target,
        },
        {
            "change": "removed",
            "fact": ROME.id,
            "prompt": ROME.prompt,
            "old": ROME.target,
            "new": None,
        },
    ]
    back = {row["prompt"]: (row["change"], row["new"]) for row in differing("HEAD", "first")}
    assert back == {PARIS.prompt: ("changed", "Lyon"), ROME.prompt: ("added", "Milan")}


def test_without_names_it_is_what_the_last_version_did(store: Store) -> None:
    assert differing() == differing("HEAD~1", "HEAD") == differing("v0003")
    assert [row["fact"] for row in differing()] == [ROME.id]


def test_branches_are_compared(store: Store) -> None:
    oslo = Fact("The capital of Norway is", "Bergen")
    with store.writing() as change:
        change.move_head("first")
        change.publish("edit", Changes([oslo]))
    rows = {row["prompt"]: row["change"] for row in differing("v0004", "v0005")}
    assert rows == {PARIS.prompt: "changed", ROME.prompt: "added", oslo.prompt: "added"}


def test_equal_versions_say_so(store: Store) -> None:
    result = run("diff", "first", "v0002")
    assert result.exit_code == 0
    assert result.stderr == "v0002 and v0002 believe the same\n"
    assert differing("first", "first") == []
