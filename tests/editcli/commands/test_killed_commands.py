"""Commands that are killed at random moments lose nothing and leave nothing behind. It is
`scripts/dev/kill_store.py` that kills each of them hundreds of times; this is a short run of it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("processes are not forked there", allow_module_level=True)

from kills import Killer
from writing_commands import make_stores, writing_commands

MEMORY = Path("/dev/shm")
QUICK = ("undo",)
OTHERS = (
    *("edit", "apply", "undo --purge", "undo --last", "tag", "tag --delete", "checkout", "compact"),
    *("gc", "migrate", "check", "conflict resolve"),
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder with the stores, in memory where that can be had."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        make_stores(Path(name))
        yield Path(name)


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_a_command_that_is_killed_loses_nothing(folder: Path, name: str) -> None:
    (command,) = (c for c in writing_commands(folder) if c.name == name)
    killer = Killer(command, folder / "killed", seed=0)
    killer.kill(2)
    if name != "migrate":
        killer.kill_writing(6)
    assert (killer.tally.lost, killer.tally.unclean) == ([], [])


def test_every_command_that_writes_is_killed(folder: Path) -> None:
    assert {command.name for command in writing_commands(folder)} == {*QUICK, *OTHERS}
