"""Two people, one store: nobody waits for a training, and what it saves is as if it came last."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from real_processes import Running, paused, wait_for_shards, wait_for_words
from tiny_edits import FAST, SETTINGS
from tiny_stores import blobs_in, in_force, journal_keys, json_of, run, save_facts, save_work

from editcli.operations.editing.on_head import LONG_S
from editcli.store.store import Store
from editors import Fact

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

CITIES = ("Rome", "Lima", "Oslo", "Cairo", "Paris", "Madrid", "Tokyo", "Nairobi")
FACTS = [Fact(f"the city of {name} is", "red", subject=name) for name in CITIES]
OLD, NEW = FACTS[:3], FACTS[3:]  # of two shards with room for two facts, the second has one
SECOND = Fact("the river of Peru is", "blue", subject="Peru")
APPLY = ("apply", "facts.jsonl", "--json")


@pytest.fixture(scope="module")
def untouched(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, calibration: Path
) -> Path:
    """A folder with a fact file, and a store whose v0002 has `OLD`, slow enough to be met."""
    folder = tmp_path_factory.mktemp("untouched")
    values = {**FAST, "shard_size": 2, "confidence": 1.0, "max_steps": 45}  # not soon sure
    save_work(folder, NEW, model_folder, calibration, values)
    older = save_facts(folder / "older.jsonl", OLD)
    assert run("apply", str(older), "--store", str(folder / ".editcli")).exit_code in (0, 1)
    return folder


@pytest.fixture
def folder(tmp_path: Path, untouched: Path) -> Path:
    return Path(shutil.copytree(untouched, tmp_path / "work"))


def store_in(folder: Path) -> Store:
    return Store.open(folder / ".editcli")


def meanwhile(folder: Path, *words: str) -> None:
    """Somebody else's command."""
    done = run(*words, "--store", str(folder / ".editcli"), "--author", "bob")
    assert done.exit_code in (0, 1), done.stderr  # 1: a random model may not say an answer
    assert "error" not in done.stderr


def held(store: Store) -> tuple[object, ...]:
    """All that HEAD holds."""
    return blobs_in(store), in_force(store), store.diff(store.version("v1"), store.head())[1]


@pytest.mark.parametrize(
    ("words", "moves"),
    [
        (("tag", "good"), False),
        (("undo", OLD[0].id), True),
        (("undo", OLD[2].id), True),
        (("edit", SECOND.prompt, SECOND.target, "-s", "Peru"), True),
        (("edit", NEW[1].prompt, "blue", "-s", "Paris"), True),
        (("edit", NEW[0].prompt, "red", "-s", "Cairo"), True),
        (("checkout", "v0001"), True),
        (("undo", OLD[2].id, "--purge"), True),
    ],
)
def test_a_training_is_saved_as_if_it_had_begun_after_what_others_did_meanwhile(
    folder: Path,
    tmp_path: Path,
    untouched: Path,
    start: Callable[..., Running],
    words: tuple[str, ...],
    moves: bool,
) -> None:
    running = start(folder, *APPLY)
    wait_for_shards(folder, 1)
    with paused(folder, running):
        meanwhile(folder, *words)
    assert running.ended() in (0, 1), (folder / "stderr").read_text()
    assert ("HEAD has moved" in (folder / "stderr").read_text()) == moves
    store = store_in(folder)
    assert (store.verify(), journal_keys(store)) == ([], [])

    one_after_the_other = Path(shutil.copytree(untouched, tmp_path / "after"))
    meanwhile(one_after_the_other, *words)
    assert start(one_after_the_other, *APPLY).ended() in (0, 1)
    then = store_in(one_after_the_other)
    assert held(store) == held(then)
    assert [v.operation for v in store.versions()] == [v.operation for v in then.versions()]
    assert store.head().extra["failed"] == then.head().extra["failed"]


def test_two_trainings_at_the_same_time_are_both_saved(
    folder: Path, tmp_path: Path, untouched: Path, start: Callable[..., Running]
) -> None:
    other = tmp_path / "other.jsonl"
    save_facts(other, [SECOND])
    first = start(folder, *APPLY)
    wait_for_shards(folder, 1)
    with paused(folder, first):
        before = journal_keys(store_in(folder))
        meanwhile(folder, "apply", str(other))
        # The one that is saved removes its own work from the journal, and nobody else's.
        assert journal_keys(store_in(folder)) == before != []
    assert first.ended() in (0, 1)
    store = store_in(folder)
    assert set(in_force(store)) == {fact.id for fact in (*FACTS, SECOND)}
    assert (store.verify(), journal_keys(store)) == ([], [])


def test_what_is_purged_while_it_is_trained_is_not_saved(
    folder: Path, start: Callable[..., Running]
) -> None:
    """A fact that is taken back, and is being applied again, when it is purged."""
    store = ("--store", str(folder / ".editcli"))
    assert run("undo", OLD[0].id, *store).exit_code == 0
    save_facts(folder / "facts.jsonl", [OLD[0], *NEW])
    running = start(folder, *APPLY)
    wait_for_shards(folder, 1)
    with paused(folder, running):
        meanwhile(folder, "undo", OLD[0].id, "--purge")
        assert journal_keys(store_in(folder)) == []  # its shard was the first
    assert running.ended() == 1
    error = json.loads((folder / "stdout").read_text())["error"]["message"]
    assert error.startswith(f"{OLD[0].id} was purged while this was being trained")
    text = b"\n".join(p.read_bytes() for p in (folder / ".editcli").rglob("*") if p.is_file())
    assert OLD[0].prompt.encode() not in text
    assert OLD[0].id.encode() not in text
    assert set(in_force(store_in(folder))) == {fact.id for fact in OLD[1:]}
    assert store_in(folder).verify() == []
    # What was trained without it is kept, and used.
    assert journal_keys(store_in(folder)) != []


def test_under_another_configuration_nothing_is_saved_and_what_was_trained_is_kept(
    folder: Path, start: Callable[..., Running]
) -> None:
    running = start(folder, *APPLY)
    wait_for_shards(folder, 1)
    with paused(folder, running):
        meanwhile(folder, "config", "set", "minima.reliability", "0")
    assert running.ended() == 1
    error = (folder / "stderr").read_text() + (folder / "stdout").read_text()
    assert "the configuration of the store was changed meanwhile" in error
    store = store_in(folder)
    assert (store.head().operation, len(journal_keys(store))) == ("config", 3)
    assert start(folder, *APPLY).ended() in (0, 1)
    assert "3 groups of facts had been trained" in (folder / "stderr").read_text()
    assert (set(in_force(store)), journal_keys(store)) == ({fact.id for fact in FACTS}, [])


def test_nothing_that_a_training_needs_is_cleared_away(
    folder: Path, start: Callable[..., Running]
) -> None:
    running = start(folder, *APPLY)
    wait_for_shards(folder, 1)
    with paused(folder, running):
        store = store_in(folder)
        before = journal_keys(store)
        cleared = run("gc", "--grace", "0", "--json", "--store", str(store.path))
        assert json_of(cleared)["journal_entries"] == 0
        meanwhile(folder, "compact")
        with store.writing():  # sweeps what killed commands left
            pass
        assert journal_keys(store) == before != []
    assert running.ended() in (0, 1)
    assert json.loads((folder / "stdout").read_text())["applied"] == len(NEW)


def test_after_a_killed_training_gc_clears_its_work_away(
    folder: Path, start: Callable[..., Running]
) -> None:
    running = start(folder, *APPLY)
    wait_for_shards(folder, 1)
    os.kill(running.pid, signal.SIGKILL)
    assert running.ended() == -signal.SIGKILL
    cleared = run("gc", "--grace", "0", "--json", "--store", str(folder / ".editcli"))
    assert json_of(cleared)["journal_entries"] >= 1
    assert [*(folder / ".editcli" / "journal").iterdir()] == []


def test_a_training_that_ends_while_the_lock_is_held_waits_for_it(
    folder: Path, start: Callable[..., Running]
) -> None:
    running = start(folder, *APPLY)
    wait_for_shards(folder, 1)
    with ExitStack() as held:
        with paused(folder, running):
            change = held.enter_context(store_in(folder).writing("editcli compact"))
            time.sleep(LONG_S)  # what takes less is not waited for
        wait_for_words(folder, "waiting for it")
        change.tag("good")
    assert running.ended() in (0, 1)
    assert "store is locked by pid" in (folder / "stderr").read_text()
    assert store_in(folder).head().id == "v0003"


@pytest.mark.parametrize("method", ["in-context", "ft-m"])
def test_so_it_is_with_every_method(
    tmp_path: Path,
    model_folder: Path,
    calibration: Path,
    start: Callable[..., Running],
    method: str,
) -> None:
    slow = {"max_steps": 45, "group_size": 2} if method == "ft-m" else {}
    values = {**SETTINGS[method], **slow}
    options = [f"--set={key}={value}" for key, value in values.items()]
    folders = [tmp_path / "at-once", tmp_path / "after"]
    for folder in folders:
        folder.mkdir()
        save_facts(folder / "facts.jsonl", NEW)
        place = ["--store", str(folder / ".editcli"), "--calibration", str(calibration)]
        made = run("init", str(model_folder), "--method", method, *place, *options)
        assert made.exit_code == 0, made.stderr
    running = start(folders[0], *APPLY)
    edit = ("edit", SECOND.prompt, SECOND.target, "-s", "Peru")
    if method == "ft-m":
        wait_for_shards(folders[0], 1)
        with paused(folders[0], running):
            meanwhile(folders[0], *edit)
    else:  # it trains nothing; the edit may come before it, or after it
        meanwhile(folders[0], *edit)
    assert running.ended() in (0, 1), (folders[0] / "stderr").read_text()
    store, then = map(store_in, folders)
    edited_first = store.head().operation == "apply"
    if edited_first:
        meanwhile(folders[1], *edit)
    assert start(folders[1], *APPLY).ended() in (0, 1)
    if not edited_first:
        meanwhile(folders[1], *edit)
    assert held(store) == held(then)
