"""`--dry-run` says what would be done, and writes nothing, not even a lock."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import typer
from tiny_edits import FRANCE, FRANCE_AGAIN, JAPAN
from tiny_stores import json_of, run, save_facts

from editcli.app import app
from editcli.store.store import Store
from editors import Fact

ROOT = Path(__file__).parents[2]
NEW = Fact("the capital of Kenya is", "Oslo", subject="Kenya")
CHANGES = {
    "edit": ["edit", FRANCE_AGAIN.prompt, FRANCE_AGAIN.target, "-s", "France"],
    "apply": ["apply", "new.jsonl"],
    "undo": ["undo", FRANCE.id],
    "undo --last": ["undo", "--last"],
    "undo --purge": ["undo", FRANCE.id, "--purge"],
    "checkout": ["checkout", "v0001"],
    "tag": ["tag", "good", "v0001"],
    "tag --delete": ["tag", "first", "--delete"],
    "config set": ["config", "set", "minima.reliability", "0.5"],
    "compact": ["compact"],
    "gc": ["gc", "--grace", "0"],
}
each_change = pytest.mark.parametrize("words", CHANGES.values(), ids=CHANGES)


def digest_of(folder: Path) -> str:
    """A digest of every name below a folder, with all bytes of files and the times of changes."""
    parts = [
        (
            str(path.relative_to(folder)),
            path.stat().st_mtime_ns,
            path.is_file() and path.read_bytes(),
        )
        for path in sorted(folder.rglob("*"))
    ]
    return sha256(repr(parts).encode()).hexdigest()


@pytest.fixture
def ready(edited: Store) -> Store:
    """The store `edited` with a tag and what a killed command leaves, and a file of facts."""
    assert run("tag", "first", "v0002").exit_code == 0
    save_facts(Path("new.jsonl"), [FRANCE_AGAIN, JAPAN, NEW])
    (edited.path / "blobs" / ("0" * 64)).write_bytes(b"left over")
    return edited


@each_change
@pytest.mark.parametrize("form", [[], ["--json"], ["--quiet"]], ids=["text", "json", "quiet"])
def test_a_dry_run_writes_nothing(ready: Store, words: list[str], form: list[str]) -> None:
    before = digest_of(ready.path)
    result = run(*words, "--dry-run", *form)
    assert result.exit_code == 0, result.stderr
    assert digest_of(ready.path) == before
    if form == ["--json"]:
        assert json_of(result)["dry_run"] is True
    elif not form:
        told = result.stdout + result.stderr
        assert "would " in told or "nothing to rebuild" in told


@each_change
def test_a_dry_run_foretells_what_is_done(ready: Store, words: list[str]) -> None:
    told = json_of(run(*words, "--dry-run", "--json"))
    done = json_of(run(*words, "--json"))
    assert (told.pop("dry_run"), done.pop("dry_run")) == (True, False)
    # What only the change itself has: a version of its own, and what training took.
    made = {"version", "iterations", "updated", "seconds", "seconds_per_edit", "failed", "missed"}
    made |= {"left", "peak_memory_bytes"}
    if words[0] in ("checkout", "tag"):
        made = set()
    shared = (told.keys() & done.keys()) - made
    assert {key: told[key] for key in shared} == {key: done[key] for key in shared}
    assert shared


@pytest.mark.parametrize(
    "words",
    [
        ["checkout", "v0009"],
        ["tag", "HEAD"],
        ["tag", "first", "v0001"],
        ["tag", "second", "--delete"],
        ["undo", "ffff"],
        ["undo", "ffff", "--purge"],
    ],
    ids=" ".join,
)
def test_a_dry_run_refuses_what_is_refused(ready: Store, words: list[str]) -> None:
    before = digest_of(ready.path)
    told, done = run(*words, "--dry-run"), run(*words)
    assert told.exit_code == done.exit_code == 1
    assert told.stderr == done.stderr
    assert digest_of(ready.path) == before


def test_an_edit_that_clashes_is_foretold(ready: Store) -> None:
    words = ["edit", "the sea of Kenya is", "red", "-s", "Kenya", "--alias", "France"]
    result = run(*words, "--dry-run")
    assert result.exit_code == 2
    assert "aliases: 'France' is the subject of fact" in result.stderr


@pytest.mark.skipif(not (ROOT / "data").is_dir(), reason="stores of releases are not there")
def test_a_dry_run_of_a_migration_rewrites_nothing(tmp_path: Path) -> None:
    stores = sorted(path for path in (ROOT / "data" / "stores-0.2").iterdir() if path.is_dir())
    path = Path(shutil.copytree(stores[0], tmp_path / "old"))
    place = ["--store", str(path), "--json"]
    before = digest_of(tmp_path)
    told = json.loads(run("migrate", "--dry-run", *place).stdout)
    assert digest_of(tmp_path) == before
    done = json.loads(run("migrate", *place).stdout)
    assert (told.pop("dry_run"), done.pop("dry_run")) == (True, False)
    assert told == done


def test_every_command_that_writes_to_a_store_has_a_dry_run() -> None:
    """Those that wait for the lock, but for a conversation; and migrate."""
    group = typer.main.get_command(app)
    found = {
        name
        for name, command in group.commands.items()  # type: ignore[attr-defined]
        if {"--wait", "--dry-run"} & {opt for p in command.params for opt in p.opts}
    }
    lacking = {
        name
        for name in found
        if "--dry-run" not in {o for p in group.commands[name].params for o in p.opts}  # type: ignore[attr-defined]
    }
    # One makes a store, one asks and answers, and one measures, with `--no-save`.
    assert lacking == {"init", "chat", "check"}
