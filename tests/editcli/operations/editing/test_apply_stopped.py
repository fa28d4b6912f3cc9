"""`editcli apply` stopped by Ctrl-C or killed, as a real process: nothing is lost, it goes on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from real_processes import Running, finished_shards, wait_for_shards, wait_for_words
from tiny_edits import FAST
from tiny_stores import blobs_in, in_force, journal_keys, json_of, run, save_work

from editcli.store.store import Store
from editors import Fact

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")

SHARDS = 8
CITIES = ("Rome", "Lima", "Oslo", "Cairo", "Paris", "Madrid", "Tokyo", "Nairobi")
WANTED = [Fact(f"the city of {name} is", "red", subject=name) for name in CITIES]
APPLY = ("apply", "facts.jsonl", "--json")


@pytest.fixture(scope="module")
def untouched(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, calibration: Path
) -> Path:
    """A folder with a fact file and an empty store of one fact a shard, slow enough to stop."""
    folder = tmp_path_factory.mktemp("untouched")
    values = {**FAST, "shard_size": 1, "confidence": 1.0, "max_steps": 45}  # not soon sure
    return save_work(folder, WANTED, model_folder, calibration, values)


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, untouched: Path, start: Callable[..., Running]
) -> tuple[dict[str, str], float]:
    """The blobs of a run that nothing disturbed, and how many seconds it took."""
    folder = shutil.copytree(untouched, tmp_path_factory.mktemp("whole") / "work")
    begun = time.monotonic()
    assert start(folder, *APPLY).ended() == 0
    store = store_in(folder)
    assert in_force(store) == tuple(fact.id for fact in WANTED)
    assert len([name for name in blobs_in(store) if name.startswith("shard-")]) == SHARDS
    return blobs_in(store), time.monotonic() - begun


@pytest.fixture
def folder(tmp_path: Path, untouched: Path) -> Path:
    return Path(shutil.copytree(untouched, tmp_path / "work"))


def store_in(folder: Path) -> Store:
    return Store.open(folder / ".editcli")


def assert_same_edits(store: Store, wanted: dict[str, str]) -> None:
    """HEAD's blobs are these; but for keys, which move in their last bits with their company."""
    blobs = blobs_in(store)
    assert blobs.keys() == wanted.keys()
    assert all(blobs[name] == wanted[name] for name in blobs if not name.startswith("scope-keys-"))
    assert run("check", "--store", str(store.path), "--min-reliability", "0").exit_code == 0


@pytest.mark.slow
def test_ctrl_c_finishes_the_shard_in_hand_and_the_same_command_goes_on(
    folder: Path, start: Callable[..., Running], uninterrupted: tuple[dict[str, str], float]
) -> None:
    running = start(folder, *APPLY)
    wait_for_shards(folder, 2)
    os.kill(running.pid, signal.SIGINT)
    assert running.ended() == 130
    record = json.loads((folder / "stdout").read_text())
    errors = (folder / "stderr").read_text()
    assert record["version"] == "v0002"
    assert 2 <= record["applied"] < SHARDS
    assert record["applied"] + record["left"] == SHARDS
    assert "stopping after the facts that are being trained; press Ctrl-C again" in errors
    assert "left; what was done is saved as v0002" in errors
    assert errors.endswith("hint: run the same command again to go on\n")
    store = store_in(folder)
    assert (store.verify(), journal_keys(store)) == ([], [])
    assert len(in_force(store)) == record["applied"]

    assert start(folder, *APPLY).ended() == 0
    rest = json.loads((folder / "stdout").read_text())
    assert (rest["version"], rest["parent"]) == ("v0003", "v0002")
    assert (rest["applied"], rest["unchanged"]) == (record["left"], record["applied"])
    assert_same_edits(store, uninterrupted[0])


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once_and_keeps_what_is_finished(
    folder: Path, start: Callable[..., Running], uninterrupted: tuple[dict[str, str], float]
) -> None:
    running = start(folder, *APPLY)
    wait_for_shards(folder, 2)
    os.kill(running.pid, signal.SIGINT)
    wait_for_words(folder, "press Ctrl-C again")
    os.kill(running.pid, signal.SIGINT)
    assert running.ended() == 130
    errors = (folder / "stderr").read_text()
    store = store_in(folder)
    assert store.verify() == []
    if "error: interrupted" in errors:  # else the shard in hand was finished before
        assert errors.endswith("go on; finished work is kept\n")
        assert store.head().id == "v0001"
        assert len(journal_keys(store)) >= 2
    assert start(folder, *APPLY).ended() == 0
    assert_same_edits(store, uninterrupted[0])


KILLS = 5
AT_LEAST, AT_MOST = 3, 5  # shards finished before the last kills, and far from all


def test_a_killed_apply_harms_nothing_and_what_it_finished_is_not_trained_again(
    folder: Path,
    start: Callable[..., Running],
    uninterrupted: tuple[dict[str, str], float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, seconds = uninterrupted
    chance = random.Random(0)
    journal = folder / ".editcli" / "journal"
    finished: dict[str, int] = {}
    for kill in range(KILLS):
        running = start(folder, *APPLY)
        wait_for_shards(folder, min(kill, AT_LEAST))
        end = time.monotonic() + chance.uniform(0, seconds / SHARDS)
        while time.monotonic() < end and finished_shards(folder) < AT_MOST:
            time.sleep(0.002)  # a machine that is quicker by now must not finish them all
        os.kill(running.pid, signal.SIGKILL)
        assert running.ended() == -signal.SIGKILL
        store = store_in(folder)
        assert (store.head().id, store.verify()) == ("v0001", [])
        assert run("verify", "--no-base", "--store", str(folder)).exit_code == 0
        sound = journal_keys(store)
        written = {key: (journal / key).stat().st_mtime_ns for key in sound}
        assert finished.items() <= written.items(), "a finished shard was trained again"
        finished = written
    assert AT_LEAST <= len(finished) < SHARDS

    import editors.methods.wise.method as wise

    trained = []
    train_jointly = wise.train_jointly

    def counted(*arguments: object, **options: object) -> object:
        trained.append(arguments)
        return train_jointly(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(wise, "train_jointly", counted)
    monkeypatch.chdir(folder)
    result = run(*APPLY)
    assert result.exit_code == 0, result.stderr
    assert json_of(result)["applied"] == SHARDS
    assert len(trained) == SHARDS - len(finished)
    counted_groups = f"{len(finished)} groups of facts had been trained by a run that was stopped"
    assert counted_groups in result.stderr
    assert blobs_in(store_in(folder)) == whole
    assert journal_keys(store_in(folder)) == []
