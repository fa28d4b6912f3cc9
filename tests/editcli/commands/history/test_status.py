"""`editcli status`, and `editcli` alone: the store at a glance."""

from __future__ import annotations

import pytest
from tiny_stores import json_of, run

from editcli.store.store import Store


def test_status_tells_what_is_believed_and_what_to_do_next(store: Store) -> None:
    record = json_of(run("status", "--json"))
    assert (record["version"], record["facts"], record["who"]) == ("v0004", 1, "bob")
    assert (record["tags"], record["scores"], record["unfinished"]) == (["HEAD"], None, 0)
    result = run("status")
    assert result.exit_code == 0
    assert "hint: `editcli check` measures this version" in result.stderr
    with store.writing() as change:
        change.record_scores(store.head(), {"of": "facts in force", "facts": 1, "forms": {}})
        change.move_head("first")
    store.journal.put("ab", b"work")
    result = run("status")
    assert "goes on" in result.stderr
    assert "HEAD is not the newest version" in result.stderr
    assert json_of(run("status", "--json"))["tags"] == ["HEAD", "first"]


def test_editcli_alone_is_the_status_where_there_is_a_store(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr("sys.argv", ["editcli"])  # read where there are no arguments
    assert run().stdout == run("status").stdout != ""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    alone = run()
    assert alone.exit_code == 2
    assert alone.stdout.startswith("Usage: ")
