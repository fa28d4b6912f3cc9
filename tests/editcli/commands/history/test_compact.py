"""`editcli compact` and `editcli gc`: what is not needed goes, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tiny_edits import FACTS, FRANCE, FRANCE_AGAIN, JAPAN
from tiny_stores import content, in_force, json_of, run

from editcli.store.edits import edits_of
from editcli.store.store import Store


@pytest.mark.parametrize("method", ["wise", "in-context", "ft-m"])
def test_compacting_lets_closed_facts_go_and_changes_no_answer(
    edited_by: Callable[[str], Store], method: str
) -> None:
    store = edited_by(method)
    for number in range(3):
        target = (FRANCE_AGAIN, FRANCE)[number % 2].target
        assert run("edit", FRANCE.prompt, target, "-s", "France").exit_code == 0
    assert run("undo", JAPAN.id, FACTS[3].id).exit_code == 0
    prompts = [fact.prompt for fact in FACTS]
    older = run("ask", JAPAN.prompt, "--version", "v0002", "-q").stdout
    before = [run("ask", prompt, "-q").stdout for prompt in prompts]
    facts, dry = in_force(store), json_of(run("compact", "--dry-run", "--json"))
    assert dry["version"] is None
    assert json_of(run("compact", "--json"))["released"] == dry["released"]
    assert in_force(store) == facts
    assert [run("ask", prompt, "-q").stdout for prompt in prompts] == before
    assert edits_of(store).closed == {}
    assert run("verify", "--no-base").exit_code == 0
    assert run("ask", JAPAN.prompt, "--version", "v0002", "-q").stdout == older
    again = run("compact")
    assert again.stdout.startswith("nothing to rebuild")


def test_gc_removes_what_a_killed_command_left_and_nothing_else(store: Store) -> None:
    before = content(store.path)
    store.journal.put("ab", b"unfinished work")
    (store.path / "blobs" / ("0" * 64)).write_bytes(b"no version has this")
    (store.path / "blobs" / "README").write_bytes(b"not a blob")
    dry = json_of(run("gc", "--dry-run", "--json"))
    assert (dry["blob_files"], dry["journal_entries"], dry["dry_run"]) == (1, 0, True)
    assert json_of(run("gc", "--json"))["blob_files"] == 1
    assert store.journal.get("ab") == b"unfinished work"
    assert json_of(run("gc", "--grace", "0", "--json"))["journal_entries"] == 1
    (store.path / "blobs" / "README").unlink()
    assert content(store.path) == before
