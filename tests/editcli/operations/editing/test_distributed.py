"""`editcli apply` on several processes: the same version as one process makes, and nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_edits import FAST
from tiny_stores import blobs_in, in_force, journal_keys, json_of, run, save_work

import editcli
from editcli.cli.options import Invocation
from editcli.operations.editing.distributed import LAUNCHED, Ranks
from editcli.store.store import Store
from editors import Fact
from editors.methods.applying import Limits

CITIES = ("Rome", "Lima", "Oslo", "Cairo", "Paris")
WANTED = [Fact(f"the city of {name} is", "red", subject=name) for name in CITIES]
DEADLINE = 180.0  # seconds


@pytest.fixture(scope="module")
def untouched(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, calibration: Path
) -> Path:
    """A folder with a fact file and an empty store of two facts a shard."""
    folder = tmp_path_factory.mktemp("untouched")
    return save_work(folder, WANTED, model_folder, calibration, {**FAST, "shard_size": 2})


def blobs(folder: Path) -> dict[str, str]:
    return blobs_in(Store.open(folder / ".editcli"))


def apply_on(folder: Path, processes: int, *words: str) -> subprocess.CompletedProcess[str]:
    """`torchrun -m editcli apply` in `folder`."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    root = str(Path(editcli.__file__).parents[1])
    return subprocess.run(
        [sys.executable, *launch, "-m", "editcli", "apply", "facts.jsonl", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


@pytest.mark.slow
def test_two_processes_save_what_one_saves(tmp_path: Path, untouched: Path) -> None:
    alone = Path(shutil.copytree(untouched, tmp_path / "alone"))
    store = ["--store", str(alone / ".editcli")]
    assert run("apply", str(alone / "facts.jsonl"), *store, "--json").exit_code == 0
    shared = Path(shutil.copytree(untouched, tmp_path / "shared"))
    done = apply_on(shared, 2, "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)  # one record: the first process speaks for all
    assert (record["version"], record["applied"]) == ("v0002", len(WANTED))
    assert "training on 2 processes" in done.stderr
    assert blobs(shared) == blobs(alone)
    assert journal_keys(Store.open(shared / ".editcli")) == []


def test_shards_that_another_process_left_are_not_trained_again(
    tmp_path: Path, untouched: Path
) -> None:
    """As when one process has died: what it finished is in the journal, whoever goes on."""
    from editcli.operations.editing.apply import help_to_apply
    from editcli.operations.session import Session

    folder = Path(shutil.copytree(untouched, tmp_path / "work"))
    session = Session.open(Invocation(store=folder / ".editcli", device="cpu"))

    class Second(Ranks):
        def together(self):  # type: ignore[no-untyped-def]  # nobody to wait for
            return Ranks().together()

    help_to_apply(session, WANTED, Second(1, 2, 1), Limits())
    assert len(journal_keys(session.store)) == 1  # of three shards the second one
    store = ["--store", str(folder / ".editcli")]
    done = run("apply", str(folder / "facts.jsonl"), *store)
    assert done.exit_code == 0
    assert "1 group of facts had been trained" in done.stderr
    assert len(in_force(Store.open(folder / ".editcli"))) == len(WANTED)


def test_what_torchrun_says_is_understood() -> None:
    environment = {LAUNCHED: "none", "WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}
    ranks = Ranks.of(environment)
    assert (ranks.number, ranks.count, ranks.local, ranks.leads) == (3, 4, 1, False)
    assert [unit for unit in range(9) if ranks.takes(unit)] == [3, 7]
    assert Ranks.of({}) == Ranks.of({LAUNCHED: "none", "WORLD_SIZE": "x"}) == Ranks()
    assert all(Ranks().takes(unit) for unit in range(3))
    assert Ranks().device("auto") == "auto"


def test_a_job_whose_shell_exports_a_world_is_one_process(
    monkeypatch: pytest.MonkeyPatch, untouched: Path
) -> None:
    """A batch system may set such variables of its own; only torchrun starts several processes."""
    monkeypatch.delenv(LAUNCHED, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    store = ["--store", str(untouched / ".editcli")]
    done = run("apply", str(untouched / "facts.jsonl"), *store, "--dry-run", "--json")
    assert (done.exit_code, json_of(done)["applied"]) == (0, len(WANTED))


@pytest.mark.slow
def test_a_process_alone_is_alone_whatever_its_shell_exports(
    tmp_path: Path, untouched: Path
) -> None:
    folder = Path(shutil.copytree(untouched, tmp_path / "work"))
    root = str(Path(editcli.__file__).parents[1])
    exported = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "SLURM_NTASKS": "2"}
    exported |= {"MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "29500"}  # nobody's address
    done = subprocess.run(
        [sys.executable, "-m", "editcli", "apply", "facts.jsonl", "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": root, **exported},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["applied"] == len(WANTED)


def test_variables_of_a_job_of_torchrun_that_is_not_there_are_named_before_long(
    monkeypatch: pytest.MonkeyPatch, untouched: Path, tmp_path: Path
) -> None:
    """As in a shell that was started inside a job of torchrun."""
    folder = Path(shutil.copytree(untouched, tmp_path / "work"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    exported = {LAUNCHED: "none", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    for name, value in {**exported, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("editcli.operations.editing.distributed.MEETING_S", 1.0)
    store = ["--store", str(folder / ".editcli")]
    done = run("apply", str(folder / "facts.jsonl"), *store)
    assert done.exit_code == 1
    assert "process 1 of 2 which torchrun has started, and the others do not answer" in done.stderr
    assert f"`unset {LAUNCHED}`" in done.stderr
    assert Store.open(folder / ".editcli").head().id == "v0001"


def test_each_unit_of_work_is_taken_by_one_process() -> None:
    for count in (1, 2, 3, 8):
        taking = [[Ranks(n, count).takes(unit) for n in range(count)] for unit in range(20)]
        assert all(sum(takers) == 1 for takers in taking)


def test_what_goes_wrong_in_a_helper_is_named_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, untouched: Path
) -> None:
    monkeypatch.setenv(LAUNCHED, "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    store = ["--store", str(untouched / ".editcli")]
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\n")
    done = run("apply", str(bad), *store)
    assert (done.exit_code, done.stdout) == (4, "")
    assert "prompt" in done.stderr
    done = run("apply", str(untouched / "facts.jsonl"), *store, "--dry-run", "--json")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    assert run("log", *store).stdout  # a rank is nothing to other commands


def test_standard_input_is_refused_under_torchrun(
    monkeypatch: pytest.MonkeyPatch, untouched: Path
) -> None:
    monkeypatch.setenv(LAUNCHED, "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    done = run("apply", "-", "--store", str(untouched / ".editcli"))
    assert done.exit_code == 2
    assert "standard input cannot be read by several processes" in done.stderr
