"""`editcli show`: a version, its facts, or one fact and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Callable

from tiny_stores import PARIS, PARIS_AGAIN, ROME, json_of, run
from typer.testing import Result

from editcli.store.store import Store
from editors import Fact


def fields(result: Result) -> dict[str, str]:
    """The lines of a tab-separated record."""
    assert result.exit_code == 0, result.stderr
    return dict(line.split("\t", 1) for line in result.stdout.splitlines())


def test_show_describes_a_version(store: Store) -> None:
    shown = fields(run("show", "v0003"))
    assert shown["version"] == "v0003"
    assert shown["at"] == "2026-03-01 23:00"
    assert (shown["facts"], shown["shards"], shown["blobs"]) == ("2", "2", "3")
    assert shown["changes"] == "added 1, removed 0, superseded 1"
    assert fields(run("show", "first"))["tools"] == "editcli 0.2.0"
    assert fields(run("show"))["tags"] == "HEAD"


def test_show_a_version_as_json_is_one_object_with_the_whole_manifest(store: Store) -> None:
    shown = json_of(run("show", "v0003", "--json"))
    assert set(shown) == {
        *("schema", "version", "parent", "operation", "at", "who", "message", "tags", "facts"),
        *("removed", "changes", "shards", "pruning", "tools", "extra", "config", "blobs"),
    }
    assert shown["schema"] == 2
    assert shown["at"] == "2026-03-01T14:00:00+00:00"
    assert shown["facts"] == 2


def test_show_a_fresh_store_says_that_there_are_no_facts(empty: Store) -> None:
    shown = json_of(run("show", "v0001", "--json"))
    assert (shown["facts"], shown["shards"]) == (0, 0)
    assert shown["changes"] == {"added": 0, "removed": 0, "superseded": 0}


def test_show_adds_what_the_method_says_of_a_version(edited_by: Callable[[str], Store]) -> None:
    edited_by("ft-m")
    shown = json_of(run("show", "--json"))
    assert (shown["facts"], shown["groups"]) == (4, 1)


def test_show_prints_the_facts_in_force_as_a_fact_file(store: Store) -> None:
    lines = run("show", "v0003", "--facts").stdout.splitlines()
    assert [Fact.from_dict(json.loads(line)) for line in lines] == [ROME, PARIS_AGAIN]


def test_show_tells_where_a_fact_comes_from_and_how_it_ended(store: Store) -> None:
    shown = fields(run("show", PARIS.id[:8]))
    assert shown["prompt"] == PARIS.prompt
    assert shown["in force in v0004"] == (
        f"no: superseded by {PARIS_AGAIN.id}, v0003 on 2026-03-01 23:00 by ann"
    )
    assert shown["added"] == "v0002 on 2026-03-01 22:00 by ann: the first batch"
    assert (shown["shard"], shown["source"]) == ("0", "atlas, p. 3")


def test_show_a_fact_as_json(store: Store) -> None:
    shown = json_of(run("show", ROME.id, "--json"))
    assert shown == {
        "schema": 2,
        "fact": ROME.id,
        "version": "v0004",
        "in_force": False,
        "ended": {
            "reason": "undone",
            "replaced_by": None,
            "version": "v0004",
            "at": "2026-03-01T15:00:00+00:00",
            "who": "bob",
            "message": "Milan was wrong",
        },
        "shard": 0,
        "entered": {
            "version": "v0002",
            "at": "2026-03-01T13:00:00+00:00",
            "who": "ann",
            "message": "the first batch",
        },
        "content": {"id": ROME.id, **ROME.to_dict()},
    }


def test_show_looks_a_fact_up_in_the_version_that_is_named(store: Store) -> None:
    shown = json_of(run("show", PARIS.id, "--version", "first", "--json"))
    assert (shown["version"], shown["in_force"], shown["ended"]) == ("v0002", True, None)


def test_show_says_where_a_fact_is_when_it_is_elsewhere(store: Store) -> None:
    result = run("show", PARIS_AGAIN.id, "--version", "first")
    assert result.exit_code == 1
    assert f"fact {PARIS_AGAIN.id} is not in v0002" in result.stderr
    assert f"`editcli show {PARIS_AGAIN.id} --version v0003`" in result.stderr


def test_show_names_what_it_looked_for_when_there_is_nothing(store: Store) -> None:
    result = run("show", "nonsense")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "error: no version, tag or fact is called 'nonsense'" in result.stderr
    assert "`editcli log`" in result.stderr
    assert "did you mean `first`?" in run("show", "frist").stderr
    beyond = run("show", "v0001~3")
    assert "goes back beyond the first version" in beyond.stderr


def test_a_version_without_its_blob_is_damage_and_no_unknown_name(store: Store) -> None:
    version = store.version("v0002")
    store.blob_path("edits.json", store.blobs(version)["edits.json"]).unlink()
    result = run("show", "v0002")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: blob 'edits.json'" in result.stderr
    assert "`editcli verify`" in result.stderr
