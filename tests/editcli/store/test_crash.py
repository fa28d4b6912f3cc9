"""Killed at any instant, a store opens at its last committed version and goes on.

Two ways to die: a simulated one after every single step that touches the disk, with half of the
bytes written where the step is a write; and a real process that gets SIGKILL at random moments.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_stores import CONFIG, journal_keys

from editcli.store import atomic
from editcli.store.records import Version
from editcli.store.store import Store
from editors import EditorError

STEPS = ("open", "write", "fsync", "replace", "unlink", "ftruncate")


class Dead(BaseException):
    """The process is gone: no step of it reaches the disk any more."""


class DyingOs(SimpleNamespace):
    """The os module of a process that dies at step `die_at`, after half of it if it is a write."""

    def __init__(self, die_at: int) -> None:
        super().__init__(**vars(os))
        self.die_at = die_at
        self.log: list[tuple[str, object]] = []
        for name in STEPS:
            setattr(self, name, self._mortal(name, getattr(os, name)))

    def _mortal(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            self.log.append((name, args[0]))
            if len(self.log) > self.die_at:
                raise Dead
            if len(self.log) == self.die_at:
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])  # type: ignore[index,arg-type]
                raise Dead
            return real(*args, **kwargs)

        return call


def number_of(version: Version) -> int:
    return int(version.id[1:])


def content(number: int) -> dict[str, bytes]:
    """What version `number` holds: one blob shared by all, one of its own."""
    return {"same": b"shared", "own": f"bytes of {number}".encode() * 50}


def check_laws(path: Path, acknowledged: int, tried: int) -> int:
    """Open a store after a death, check what must hold, and return the number of HEAD."""
    store = Store.open(path)
    assert store.verify() == []
    head = number_of(store.head())
    assert acknowledged <= head <= tried
    versions = store.versions()
    assert [number_of(version) for version in versions] == list(range(1, head + 1))
    for version in versions[1:]:
        for name, expected in content(number_of(version)).items():
            assert store.read(version, name) == expected
    return head


def publish_next(store: Store) -> int:
    with store.writing() as tx:
        number = number_of(store.head()) + 1
        assert number_of(tx.publish("edit", content(number), [f"f{number}"])) == number
    return number


def dies(
    monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], object]
) -> tuple[bool, list[tuple[str, object]]]:
    """Whether `action` was killed when the process dies at `step`, and the steps it took."""
    with monkeypatch.context() as patch:
        mortal = DyingOs(step)
        patch.setattr(atomic, "os", mortal)
        try:
            action()
        except Dead:
            return True, mortal.log
    return False, mortal.log


# A death inside the tidying that follows a death is a death too: `again` counts steps from there.
@pytest.mark.parametrize("again", [None, 2, 4, 6, 9])
def test_a_death_at_any_step_of_publishing_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: int | None
) -> None:
    path = tmp_path / "s"
    publish_next(Store.create(path, CONFIG))
    acknowledged, step, outcomes = 2, 0, set()
    while True:
        step += 1
        killed, _ = dies(monkeypatch, step, lambda: publish_next(Store.open(path)))
        head = check_laws(path, acknowledged, acknowledged + 1)
        if not killed:
            assert head == acknowledged + 1
            break
        outcomes.add(head - acknowledged)
        tried = head
        if again is not None:
            killed, _ = dies(monkeypatch, again, lambda: publish_next(Store.open(path)))
            assert killed
            tried += 1
            head = check_laws(path, head, tried)
        assert publish_next(Store.open(path)) == head + 1
        acknowledged = check_laws(path, head + 1, head + 1)
        litter = [p.name for p in path.rglob(f"{atomic.TEMP_PREFIX}*")]
        assert litter == []
    assert outcomes == {0, 1}  # deaths on both sides of the commit point were seen
    assert step > 20


@pytest.mark.parametrize("operation", ["tag", "checkout"])
def test_a_death_at_any_step_of_moving_a_ref_leaves_it_old_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    path = tmp_path / "s"
    store = Store.create(path, CONFIG)
    publish_next(store)
    ref = "good" if operation == "tag" else "HEAD"

    def move(target: str) -> None:
        with Store.open(path).writing() as tx:
            if operation == "tag":
                tx.tag("good", target, move=True)
            else:
                tx.move_head(target)

    outcomes, step, killed = set(), 0, True
    while killed:
        step += 1
        move("v0001")
        killed, _ = dies(monkeypatch, step, lambda: move("v0002"))
        assert store.verify() == []
        assert store.version(ref).id == store.refs()[ref]
        outcomes.add(store.refs()[ref])
        with store.writing():
            pass  # tidies up
        assert (path / "refs" / ref).read_text().split()[0] == store.refs()[ref]
        assert store.verify() == []
    assert outcomes == {"v0001", "v0002"}


def test_a_death_at_any_step_of_making_a_store_leaves_a_whole_one_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes, step, killed = set(), 0, True
    while killed:
        step += 1
        path = tmp_path / str(step) / "s"
        killed, _ = dies(monkeypatch, step, lambda path=path: Store.create(path, CONFIG))  # type: ignore[misc]
        outcomes.add(path.exists())
        if path.exists():
            assert Store.open(path).verify() == []
        else:
            Store.create(path, CONFIG)
        assert publish_next(Store.open(path)) == 2
    assert outcomes == {True, False}


def test_a_death_while_journalling_leaves_the_old_entry_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.create(tmp_path / "s", CONFIG)
    outcomes, step, killed = set(), 0, True
    while killed:
        step += 1
        store.journal.put("aa", b"old")
        killed, _ = dies(monkeypatch, step, lambda: store.journal.put("aa", b"new"))
        outcomes.add(store.journal.get("aa"))
        assert journal_keys(store) == ["aa"]
    assert outcomes == {b"old", b"new"}
    store.journal.clear()
    assert list((tmp_path / "s" / "journal").iterdir()) == []


def test_everything_is_synced_before_what_refers_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut keeps only what was synced: no rename of unsynced bytes, no line too early."""
    store = Store.create(tmp_path / "s", CONFIG)
    _, log = dies(monkeypatch, 10**9, lambda: publish_next(store))
    unsynced: set[Path] = set()  # files written to, or folders renamed into
    opened = Path()
    for step, target in log:
        if step == "open":
            opened = Path(str(target))
        path = opened if step in ("write", "fsync") else Path(str(target))
        if step == "write":
            if path.name == "history.jsonl":
                assert unsynced == set()
            unsynced.add(path)
        elif step == "fsync":
            unsynced.discard(path)
        elif step == "replace":
            assert path not in unsynced
            if path.parent != store.path:  # the lock's name tag may be lost
                unsynced.add(path.parent)
    assert unsynced == set()


# A process for each line that is read, which publishes until it is killed. They are forks, so that
# none of them has to start an interpreter.
LIVES = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from editcli.store.store import Store

def live():
    store = Store.open(Path(sys.argv[1]))
    while True:
        with store.writing("publishing loop") as tx:
            number = int(store.head().id[1:]) + 1
            own = f"bytes of {number}".encode() * 50
            tx.publish("edit", {"same": b"shared", "own": own}, [f"f{number}"])
            os.write(1, b"%d\\n" % number)

for _ in sys.stdin:
    child = os.fork()
    if child == 0:
        live()
    os.write(1, b"born %d\\n" % child)
    os.waitpid(child, 0)
    os.write(1, b"dead\\n")
"""

KILLS = 60


@pytest.mark.slow  # the fast suite kills at every step of publishing, one after the other
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is not known there")
def test_a_process_killed_at_random_moments_never_harms_the_store(tmp_path: Path) -> None:
    path = tmp_path / "s"
    Store.create(path, CONFIG)
    root = str(Path(atomic.__file__).parents[2])
    chance = random.Random(0)
    start = time.perf_counter()
    acknowledged = publish_next(Store.open(path))
    latest = 4 * (time.perf_counter() - start)  # by then, some versions are published
    with subprocess.Popen(
        [sys.executable, "-c", LIVES, str(path), root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as lives:
        assert lives.stdin is not None
        assert lives.stdout is not None
        for _ in range(KILLS):
            lives.stdin.write("another\n")
            lines: list[str] = []
            while not lines or not lines[-1].startswith("born"):
                lines.append(lives.stdout.readline())
                assert lines[-1], "the process that forks is gone"
            time.sleep(chance.uniform(0.0, latest))
            os.kill(int(lines.pop().split()[1]), signal.SIGKILL)
            while not lines or lines[-1] != "dead\n":
                lines.append(lives.stdout.readline())
                assert lines[-1], "the process that forks is gone"
            done = [int(line) for line in lines[:-1]]
            assert done == list(range(acknowledged + 1, acknowledged + 1 + len(done)))
            acknowledged += len(done)
            acknowledged = check_laws(path, acknowledged, acknowledged + 1)
        lives.stdin.close()
    acknowledged = publish_next(Store.open(path))
    assert check_laws(path, acknowledged, acknowledged) > KILLS // 4
    with pytest.raises(EditorError, match="no version is called"):
        Store.open(path).version(str(acknowledged + 1))
