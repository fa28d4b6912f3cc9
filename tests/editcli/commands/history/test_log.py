"""`editcli log`: what was done to the store, newest first."""

from __future__ import annotations

from typing import Any

from json_keys import records_of
from tiny_stores import PARIS, PARIS_AGAIN, run
from typer.testing import Result

from editcli.store.changes import Changes
from editcli.store.store import Store


def rows(result: Result) -> list[dict[str, str]]:
    """The lines of a tab-separated table."""
    assert result.exit_code == 0, result.stderr
    head, *lines = [line.split("\t") for line in result.stdout.splitlines()]
    return [dict(zip(head, line, strict=True)) for line in lines]


def objects(result: Result) -> list[dict[str, Any]]:
    """The lines of JSON Lines, and nothing on stderr."""
    assert (result.exit_code, result.stderr) == (0, "")
    return records_of(result)


def test_log_lists_what_was_done_newest_first_in_local_time(store: Store) -> None:
    table = rows(run("log"))
    assert [row["operation"] for row in table] == ["tag", "undo", "edit", "apply", "init"]
    assert table[1] == {
        "version": "v0004",
        "when": "2026-03-02 00:00",
        "who": "bob",
        "operation": "undo",
        "changes": "-1",
        "message": "Milan was wrong",
        "tags": "HEAD",
    }
    assert [row["changes"] for row in table[2:]] == ["+1 ~1", "+2", ""]
    assert (table[0]["message"], table[3]["tags"]) == ("as first", "first")


def test_log_can_be_limited_and_narrowed(store: Store) -> None:
    assert [row["operation"] for row in rows(run("log", "--limit", "2"))] == ["tag", "undo"]
    assert [row["version"] for row in rows(run("log", "--who", "bob"))] == ["v0004"]
    touched = rows(run("log", "--fact", PARIS.id[:9]))
    assert [row["operation"] for row in touched] == ["edit", "apply"]
    assert [row["version"] for row in rows(run("log", "--operation", "init"))] == ["v0001"]


def test_log_as_json_has_the_history_lines_with_their_chain(store: Store) -> None:
    lines = objects(run("log", "--json"))
    assert [line["seq"] for line in lines] == [5, 4, 3, 2, 1]
    edit = lines[2]
    assert edit["at"] == "2026-03-01T14:00:00+00:00"
    assert edit["changes"] == {"added": 1, "removed": 0, "superseded": 1}
    assert set(edit) == {
        *(
            "schema",
            "seq",
            "at",
            "who",
            "operation",
            "version",
            "head",
            "made",
            "parent",
            "tag",
            "message",
        ),
        *("changes", "tags", "scores", "removed", "content_hash", "previous_hash"),
    }
    assert [line["parent"] for line in lines] == [None, "v0003", "v0002", "v0001", None]


def test_a_graph_shows_what_each_version_came_from(store: Store) -> None:
    with store.writing() as change:
        change.move_head("v0002")
        change.publish("edit", Changes([PARIS_AGAIN], closed={PARIS.id: PARIS_AGAIN.id}))
    drawn = [(row["graph"], row["version"]) for row in rows(run("log", "--graph"))]
    assert drawn == [
        ("*", "v0005"),
        ("| *", "v0004"),
        ("| *", "v0003"),
        ("* /", "v0002"),
        ("*", "v0001"),
    ]


def test_quiet_log_prints_each_version_once(store: Store) -> None:
    assert run("log", "-q").stdout.split() == ["v0004", "v0003", "v0002", "v0001"]


def test_log_refuses_a_fact_that_never_was(store: Store) -> None:
    result = run("log", "--fact", "zzz")
    assert result.exit_code == 1
    assert "no fact has an id that starts with 'zzz'" in result.stderr
    assert run("log", "--limit", "0").exit_code == 2
