"""`editcli tag`: versions get names, which move only by force."""

from __future__ import annotations

import json

from tiny_stores import json_of, run
from typer.testing import Result

from editcli.store.store import Store


def rows(result: Result) -> list[dict[str, str]]:
    """The lines of a tab-separated table."""
    assert result.exit_code == 0, result.stderr
    head, *lines = [line.split("\t") for line in result.stdout.splitlines()]
    return [dict(zip(head, line, strict=True)) for line in lines]


def test_tag_names_head_or_a_version(store: Store) -> None:
    named = run("tag", "release")
    assert named.stdout.splitlines()[:2] == ["tag\trelease", "version\tv0004"]
    assert run("tag", "old", "v0001", "-q").stdout == "old\n"
    assert store.refs() == {"HEAD": "v0004", "first": "v0002", "old": "v0001", "release": "v0004"}


def test_a_tag_moves_only_by_force(store: Store) -> None:
    refused = run("tag", "first", "v0003")
    assert refused.exit_code == 1
    assert "already names v0002" in refused.stderr
    assert "`--force`" in refused.stderr
    moved = json_of(run("tag", "first", "v0003", "--force", "--json"))
    assert moved == {
        "schema": 2,
        "tag": "first",
        "version": "v0003",
        "previous": "v0002",
        "dry_run": False,
    }


def test_tag_without_a_name_lists_the_tags(store: Store) -> None:
    run("tag", "release", "-m", "after review", "--author", "bob")
    listed = rows(run("tag"))
    assert [(row["tag"], row["version"], row["who"]) for row in listed] == [
        ("first", "v0002", "ann"),
        ("release", "v0004", "bob"),
    ]
    assert listed[0]["at"] == "2026-03-02 01:00"
    lines = run("tag", "--json").stdout.splitlines()
    keys = {"tag", "version", "at", "who", "message"}
    assert [set(json.loads(line)) for line in lines] == [keys | {"schema"}] * 2
    assert run("tag", "--force").exit_code == 2


def test_a_command_kept_out_by_the_lock_names_its_holder(store: Store) -> None:
    with store.writing("editcli apply facts.jsonl"):
        result = run("tag", "release")
    assert result.exit_code == 1
    assert "editcli apply facts.jsonl" in result.stderr


def test_a_tag_is_taken_away_and_the_history_keeps_it(store: Store) -> None:
    gone = json_of(run("tag", "first", "--delete", "--json"))
    assert gone == {
        "schema": 2,
        "tag": "first",
        "version": None,
        "previous": "v0002",
        "dry_run": False,
    }
    assert store.refs() == {"HEAD": "v0004"}
    assert rows(run("tag")) == []
    assert "no longer first" in run("log").stdout
    assert "no tag is called 'first'" in run("tag", "first", "-d").stderr
    assert run("tag", "--delete").exit_code == 2
    assert run("tag", "first", "v0003").exit_code == 0
    assert store.refs()["first"] == "v0003"
    assert store.verify() == []
