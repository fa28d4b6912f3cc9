"""`editcli log`, `show`, `checkout` and `tag`: the audit, from the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_stores import PARIS, PARIS_AGAIN, ROME, store_with_a_past
from typer.testing import CliRunner, Result

from editcli.app import app
from editcli.store.store import Store
from editors import Fact


@pytest.fixture(autouse=True)
def _in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nine hours ahead of UTC, where noon is 21:00."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_with_a_past(tmp_path / ".editcli")


def run(store: Store, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--store", str(store.path)])


def rows(result: Result) -> list[dict[str, str]]:
    """The lines of a tab-separated table."""
    assert result.exit_code == 0, result.stderr
    head, *lines = [line.split("\t") for line in result.stdout.splitlines()]
    return [dict(zip(head, line, strict=True)) for line in lines]


def fields(result: Result) -> dict[str, str]:
    """The lines of a tab-separated record."""
    assert result.exit_code == 0, result.stderr
    return dict(line.split("\t", 1) for line in result.stdout.splitlines())


def objects(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return [json.loads(line) for line in result.stdout.splitlines()]


# --- log ------------------------------------------------------------------------------------


def test_log_lists_what_was_done_newest_first_in_local_time(store: Store) -> None:
    table = rows(run(store, "log"))
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
    assert [row["operation"] for row in rows(run(store, "log", "--limit", "2"))] == ["tag", "undo"]
    assert [row["version"] for row in rows(run(store, "log", "--who", "bob"))] == ["v0004"]
    touched = rows(run(store, "log", "--fact", PARIS.id[:9]))
    assert [row["operation"] for row in touched] == ["edit", "apply"]
    assert [row["version"] for row in rows(run(store, "log", "--operation", "init"))] == ["v0001"]


def test_log_as_json_has_the_history_lines_with_their_chain(store: Store) -> None:
    lines = objects(run(store, "log", "--json"))
    assert [line["seq"] for line in lines] == [5, 4, 3, 2, 1]
    edit = lines[2]
    assert edit["at"] == "2026-03-01T14:00:00+00:00"
    assert edit["facts"] == {"added": [PARIS_AGAIN.id], "removed": [], "superseded": [PARIS.id]}
    assert set(edit) == {
        *("seq", "at", "who", "operation", "version", "head", "message", "facts"),
        *("manifest", "tag", "previous", "tags"),
    }


def test_quiet_log_prints_each_version_once(store: Store) -> None:
    assert run(store, "log", "-q").stdout.split() == ["v0004", "v0003", "v0002", "v0001"]


def test_log_refuses_a_fact_that_never_was(store: Store) -> None:
    result = run(store, "log", "--fact", "zzz")
    assert result.exit_code == 1
    assert "no fact has an id that starts with 'zzz'" in result.stderr
    assert run(store, "log", "--limit", "0").exit_code == 2


def test_without_a_store_every_command_points_to_init(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["log"], ["show"], ["tag"], ["checkout", "v1"], ["verify", "--no-base"]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 1
        assert result.stdout == ""
        assert "`editcli init`" in result.stderr


# --- show -----------------------------------------------------------------------------------


def test_show_describes_a_version(store: Store) -> None:
    shown = fields(run(store, "show", "v0003"))
    assert shown["version"] == "v0003"
    assert shown["created"] == "2026-03-01 23:00"
    assert shown["counts"] == "facts 2, added 1, removed 0, superseded 1, ever 3, shards 2"
    assert shown["scores"] == "reliability 0.9877, locality.near 1"
    assert shown["blobs"] == "edits.json, facts.jsonl, scores.json"
    assert fields(run(store, "show", "first"))["tools"] == "editcli 0.1.0"
    assert fields(run(store, "show"))["tags"] == "HEAD"


def test_show_a_version_as_json_is_one_object_with_the_whole_manifest(store: Store) -> None:
    [shown] = objects(run(store, "show", "v0003", "--json"))
    assert set(shown) == {
        *("schema", "version", "parent", "operation", "created", "author", "message", "tags"),
        *(
            "counts",
            "pruned",
            "tools",
            "scores",
            "facts",
            "added",
            "removed",
            "superseded",
            "blobs",
        ),
        *("config", "extra"),
    }
    assert shown["schema"] == 1
    assert shown["created"] == "2026-03-01T14:00:00+00:00"
    assert shown["facts"] == [ROME.id, PARIS_AGAIN.id]
    assert shown["scores"]["reliability"] == 0.98765  # type: ignore[index]


def test_show_a_fresh_store_says_that_there_are_no_facts(store: Store) -> None:
    [shown] = objects(run(store, "show", "v0001", "--json"))
    assert shown["counts"] == dict.fromkeys(
        ("facts", "added", "removed", "superseded", "ever", "shards"), 0
    )
    assert shown["scores"] is None


def test_show_prints_the_facts_in_force_as_a_fact_file(store: Store) -> None:
    lines = run(store, "show", "v0003", "--facts").stdout.splitlines()
    assert [Fact.from_dict(json.loads(line)) for line in lines] == [ROME, PARIS_AGAIN]


def test_show_tells_where_a_fact_comes_from_and_how_it_ended(store: Store) -> None:
    shown = fields(run(store, "show", PARIS.id[:8]))
    assert shown["prompt"] == PARIS.prompt
    assert shown["in force in v0004"] == (
        f"no: superseded by {PARIS_AGAIN.id}, v0003 on 2026-03-01 23:00 by ann"
    )
    assert shown["added"] == "v0002 on 2026-03-01 22:00 by ann: the first batch"
    assert (shown["shard"], shown["source"]) == ("0", "atlas, p. 3")


def test_show_a_fact_as_json(store: Store) -> None:
    [shown] = objects(run(store, "show", ROME.id, "--json"))
    assert shown == {
        "schema": 1,
        "id": ROME.id,
        "version": "v0004",
        "in_force": False,
        "closed": {
            "why": "undone",
            "by": None,
            "version": "v0004",
            "at": "2026-03-01T15:00:00+00:00",
            "who": "bob",
            "message": "Milan was wrong",
        },
        "shard": 0,
        "added": {
            "version": "v0002",
            "at": "2026-03-01T13:00:00+00:00",
            "who": "ann",
            "message": "the first batch",
        },
        "fact": {"id": ROME.id, **ROME.to_dict()},
    }


def test_show_looks_a_fact_up_in_the_version_asked_for(store: Store) -> None:
    [shown] = objects(run(store, "show", PARIS.id, "--version", "first", "--json"))
    assert (shown["version"], shown["in_force"], shown["closed"]) == ("v0002", True, None)


def test_show_says_where_a_fact_is_when_it_is_elsewhere(store: Store) -> None:
    result = run(store, "show", PARIS_AGAIN.id, "--version", "first")
    assert result.exit_code == 1
    assert f"fact {PARIS_AGAIN.id} is not in v0002" in result.stderr
    assert f"`editcli show {PARIS_AGAIN.id} --version v0003`" in result.stderr


def test_show_names_what_it_looked_for_when_there_is_nothing(store: Store) -> None:
    result = run(store, "show", "nonsense")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "error: no version, tag or fact is called 'nonsense'" in result.stderr
    assert "`editcli log`" in result.stderr
    assert "did you mean `first`?" in run(store, "show", "frist").stderr
    beyond = run(store, "show", "v0001~3")
    assert "goes back beyond the first version" in beyond.stderr


def test_a_version_without_its_manifest_is_damage_and_no_unknown_name(store: Store) -> None:
    (store.path / "versions" / "v0002.json").unlink()
    result = run(store, "show", "v0002")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: the manifest of v0002 is missing" in result.stderr
    assert "`editcli verify`" in result.stderr


# --- checkout and tag -----------------------------------------------------------------------


def test_checkout_moves_head_and_is_recorded(store: Store) -> None:
    [moved] = objects(run(store, "checkout", "first", "--author", "cara", "-m", "back", "--json"))
    assert moved == {"schema": 1, "version": "v0002", "previous": "v0004", "facts": 2}
    assert store.head().id == "v0002"
    last = store.history()[-1]
    assert (last.operation, last.who, last.message) == ("checkout", "cara", "back")
    assert rows(run(store, "log"))[0]["operation"] == "checkout"


def test_checkout_of_head_changes_nothing_and_says_so(store: Store) -> None:
    before = store.history()
    result = run(store, "checkout", "v4")
    assert result.exit_code == 0
    assert result.stderr == "HEAD is at v0004 already\n"
    assert store.history() == before


def test_checkout_of_an_unknown_version_suggests_the_nearest(store: Store) -> None:
    result = run(store, "checkout", "frist")
    assert result.exit_code == 1
    assert "did you mean `first`?" in result.stderr


def test_tag_names_head_or_a_version(store: Store) -> None:
    assert fields(run(store, "tag", "release"))["version"] == "v0004"
    assert run(store, "tag", "old", "v0001", "-q").stdout == "old\n"
    assert store.refs() == {"HEAD": "v0004", "first": "v0002", "old": "v0001", "release": "v0004"}


def test_a_tag_moves_only_by_force(store: Store) -> None:
    refused = run(store, "tag", "first", "v0003")
    assert refused.exit_code == 1
    assert "already names v0002" in refused.stderr
    assert "`--force`" in refused.stderr
    [moved] = objects(run(store, "tag", "first", "v0003", "--force", "--json"))
    assert moved == {"schema": 1, "tag": "first", "version": "v0003", "previous": "v0002"}


def test_tag_without_a_name_lists_the_tags(store: Store) -> None:
    run(store, "tag", "release", "-m", "after review", "--author", "bob")
    listed = rows(run(store, "tag"))
    assert [(row["tag"], row["version"], row["who"]) for row in listed] == [
        ("first", "v0002", "ann"),
        ("release", "v0004", "bob"),
    ]
    assert listed[0]["when"] == "2026-03-02 01:00"
    assert [set(line) for line in objects(run(store, "tag", "--json"))] == [
        {"tag", "version", "when", "who", "message"}
    ] * 2
    assert run(store, "tag", "--force").exit_code == 2


def test_a_command_kept_out_by_the_lock_names_its_holder(store: Store) -> None:
    with store.writing("editcli apply facts.jsonl"):
        result = run(store, "tag", "release")
    assert result.exit_code == 1
    assert "editcli apply facts.jsonl" in result.stderr
