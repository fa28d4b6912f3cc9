"""`editcli apply` stopped by Ctrl-C or killed, as a real process: nothing is lost, it goes on.

A server process imports torch once and forks a child for each command, so that a test does not wait
for imports and signals reach a process of its own.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tiny_edits import FAST
from tiny_stores import blobs_in, in_force, journal_keys, json_of, run, save_work

import editcli
from editcli.store.store import Store
from editors import Fact

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")

SERVER = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import torch, transformers
import editcli.operations.editing.apply, editcli.operations.session, editors.methods.wise.method
from editcli.app import main
torch.set_num_threads(1)
print("ready", flush=True)
for line in sys.stdin:
    folder, words = json.loads(line)
    child = os.fork()
    if not child:
        os.chdir(folder)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["editcli", *words]
        main()
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

SHARDS = 8
CITIES = ("Rome", "Lima", "Oslo", "Cairo", "Paris", "Madrid", "Tokyo", "Nairobi")
WANTED = [Fact(f"the city of {name} is", "red", subject=name) for name in CITIES]
APPLY = ("apply", "facts.jsonl", "--json")
DEADLINE = 120.0  # seconds


class Running(NamedTuple):
    """A command in a process of its own."""

    pid: int
    ended: Callable[[], int]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Running]]:
    """`start(folder, *words)`: the command, running in `folder`, its streams in files there."""
    root = str(Path(editcli.__file__).parents[1])
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    requests, replies = server.stdin, server.stdout
    assert replies.readline() == "ready\n"

    def begin(folder: Path, *words: str) -> Running:
        requests.write(json.dumps([str(folder), words]) + "\n")
        requests.flush()
        return Running(int(replies.readline()), lambda: int(replies.readline()))

    yield begin
    requests.close()
    server.wait(timeout=DEADLINE)


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


def finished_shards(folder: Path) -> int:
    """How many shards are finished and in the journal."""
    journal = folder / ".editcli" / "journal"
    return sum(not path.name.startswith(".") for path in journal.iterdir())


def wait_for_shards(folder: Path, count: int) -> None:
    end = time.monotonic() + DEADLINE
    while finished_shards(folder) < count:
        assert time.monotonic() < end, "the command does not get on"
        time.sleep(0.002)


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
    end = time.monotonic() + DEADLINE
    while "press Ctrl-C again" not in (folder / "stderr").read_text():
        assert time.monotonic() < end
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
