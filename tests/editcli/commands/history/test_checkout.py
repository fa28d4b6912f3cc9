"""`editcli checkout`: HEAD moves, and nothing is lost."""

from __future__ import annotations

from tiny_stores import json_of, run

from editcli.store.store import Store


def test_checkout_moves_head_and_is_recorded(store: Store) -> None:
    moved = json_of(run("checkout", "first", "--author", "cara", "-m", "back", "--json"))
    assert moved == {
        "schema": 2,
        "version": "v0002",
        "previous": "v0004",
        "facts": 2,
        "dry_run": False,
    }
    assert store.head().id == "v0002"
    last, message = store.history()[-1]
    assert (last.operation, last.who, message) == ("checkout", "cara", "back")
    assert run("log").stdout.splitlines()[1].split("\t")[3] == "checkout"


def test_checkout_of_head_changes_nothing_and_says_so(store: Store) -> None:
    before = store.history()
    result = run("checkout", "v4")
    assert result.exit_code == 0
    assert result.stderr == "HEAD is already at v0004\n"
    assert store.history() == before


def test_checkout_of_an_unknown_version_suggests_the_nearest(store: Store) -> None:
    result = run("checkout", "frist")
    assert result.exit_code == 1
    assert "did you mean `first`?" in result.stderr
