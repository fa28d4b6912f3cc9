"""Commands as real processes, which can be stopped and killed.

A server process imports torch once and forks a child for each command, so that a test does not wait
for imports and signals reach a process of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

import editcli

DEADLINE = 120.0  # seconds

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


class Running(NamedTuple):
    """A command in a process of its own."""

    pid: int
    ended: Callable[[], int]


@pytest.fixture(scope="session")
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


def finished_shards(folder: Path) -> int:
    """How many shards are finished and in the journal."""
    journal = folder / ".editcli" / "journal"
    return sum(not path.name.startswith((".", "run-")) for path in journal.iterdir())


def wait_for_shards(folder: Path, count: int) -> None:
    end = time.monotonic() + DEADLINE
    while finished_shards(folder) < count:
        assert time.monotonic() < end, "the command does not get on"
        time.sleep(0.002)


def wait_for_words(folder: Path, words: str) -> None:
    """Return once the command in `folder` has said so."""
    end = time.monotonic() + DEADLINE
    while words not in (told := (folder / "stderr").read_text()):
        assert time.monotonic() < end, f"it said {told!r}, and not {words!r}"
        time.sleep(0.002)


@contextmanager
def paused(folder: Path, running: Running) -> Iterator[None]:
    """Inside the block, the command in `folder` stands still, and does not hold the database."""
    end = time.monotonic() + DEADLINE
    while True:
        os.kill(running.pid, signal.SIGSTOP)
        open_files = Path(f"/proc/{running.pid}/fd")
        if not any(os.readlink(file).endswith("store.db") for file in open_files.iterdir()):
            break
        os.kill(running.pid, signal.SIGCONT)
        assert time.monotonic() < end, "the command does not leave the database alone"
        time.sleep(0.005)
    try:
        yield
    finally:
        os.kill(running.pid, signal.SIGCONT)
