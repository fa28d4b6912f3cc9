"""Killed at any instant, a store opens at its last committed version and goes on.

A process dies in four ways: at every call of the system and every statement of the database, one
after the other; at the first byte of a file beyond a limit, so in the midst of a commit, too; at
random moments, by SIGKILL; and it goes on, when the disk is full or may not be written.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_stores import CONFIG, content, journal_keys

from editcli.store.changes import Changes, NewBlob
from editcli.store.files import atomic
from editcli.store.records import Version
from editcli.store.store import Store
from editors import EditorError, Fact

if sys.platform == "win32":
    pytest.skip("processes are not forked there", allow_module_level=True)

import resource

DEAD, REFUSED = 9, 3  # exit codes
STEPS = ("open", "write", "fsync", "replace", "unlink", "rmdir")


def in_child(action: Callable[[], object], prepare: Callable[[], object]) -> int:
    """How a process ends that does `action`: 0, DEAD, REFUSED, or the negative of a signal."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            prepare()
            action()
            status = 0
        except EditorError:
            status = REFUSED
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dying_at(step: int) -> Callable[[], None]:
    """Makes a process die at its step number `step`, after half of it if it is a write."""

    def prepare() -> None:
        count = 0

        def passed() -> bool:
            nonlocal count
            count += 1
            return count == step

        def mortal(name: str) -> Callable[..., object]:
            real = getattr(os, name)

            def call(*args: object, **kwargs: object) -> object:
                if passed():
                    if name == "write":
                        real(args[0], args[1][: len(args[1]) // 2])  # type: ignore[index,arg-type]
                    os._exit(DEAD)
                return real(*args, **kwargs)

            return call

        for name in STEPS:
            setattr(os, name, mortal(name))
        connect = sqlite3.connect

        def connected(*args: object, **kwargs: object) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*args, **kwargs)  # type: ignore[call-overload]
            connection.set_trace_callback(lambda _: os._exit(DEAD) if passed() else None)
            return connection

        sqlite3.connect = connected  # type: ignore[assignment]

    return prepare


def limited_to(size: int, *, deadly: bool) -> Callable[[], None]:
    """Lets no file of a process grow beyond `size` bytes; `deadly`: trying to kills the process."""

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if deadly else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return prepare


def held(number: int) -> dict[str, bytes]:
    """The blobs of version `number`: one shared by all, one of its own."""
    return {"same": b"shared", "own": f"bytes of {number}".encode() * 50}


def fact_of(number: int) -> Fact:
    return Fact(f"the number is {'x' * 300}", f"{number}", id=f"fact-{number}")


def store_of(path: Path, versions: int) -> Store:
    """A store with that many versions, and pages that no further version touches."""
    old = [
        Fact(f"what was {'x' * 900} {number} is", "x", id=f"old{number}") for number in range(60)
    ]
    store = Store.create(path, CONFIG, Changes(old, closed=dict.fromkeys(f.id for f in old)))
    while store.head().number < versions:
        publish_next(store)
    return store


def publish_next(store: Store) -> int:
    with store.writing() as change:
        number = store.head().number + 1
        old = {f"fact-{number - 1}": f"fact-{number}"} if number > 2 else {}
        blobs = {name: NewBlob(data, ((f"fact-{number}",),)) for name, data in held(number).items()}
        changes = Changes([fact_of(number)], closed={**old}, blobs=blobs)
        assert change.publish("edit", changes).number == number
    return number


def check_laws(path: Path, acknowledged: int, tried: int) -> int:
    """Open a store after a death, check what must hold, and return the number of HEAD."""
    store = Store.open(path)
    assert store.verify() == []
    head = store.head().number
    assert acknowledged <= head <= tried
    versions = store.versions()
    assert [version.number for version in versions] == list(range(1, head + 1))
    for version in versions[1:]:
        check_version(store, version)
    return head


def check_version(store: Store, version: Version) -> None:
    assert [entry.fact for entry in store.in_force(version)] == [fact_of(version.number)]
    blobs = store.blobs(version)
    assert {name: store.read(name, blob) for name, blob in blobs.items()} == held(version.number)


# --- killed -----------------------------------------------------------------------------------


# A death inside the tidying that follows a death is a death too: `again` counts steps from there.
@pytest.mark.parametrize("again", [None, pytest.param(7, marks=pytest.mark.slow)])
def test_a_death_at_any_step_of_publishing_loses_nothing(tmp_path: Path, again: int | None) -> None:
    path = tmp_path / "s"
    publish_next(Store.create(path, CONFIG))
    acknowledged, step, outcomes, status = 2, 0, set(), DEAD
    while status == DEAD:
        step += 1
        status = in_child(lambda: publish_next(Store.open(path)), dying_at(step))
        assert status in (0, DEAD)
        if again is not None:
            assert in_child(lambda: publish_next(Store.open(path)), dying_at(again)) == DEAD
        head = check_laws(path, acknowledged, acknowledged + 1)
        outcomes.add(head - acknowledged)
        acknowledged = head
    assert publish_next(Store.open(path)) == acknowledged + 1
    check_laws(path, acknowledged + 1, acknowledged + 1)
    assert [*path.rglob(f"{atomic.TEMP_PREFIX}*")] == []
    assert outcomes == {0, 1}
    assert step > 40


def test_a_death_in_the_midst_of_a_commit_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s"
    store_of(path, 5)
    whole, unfinished = tmp_path / "whole", 0
    shutil.copytree(path, whole)
    outcomes = set()
    for size in range(0, (path / "store.db").stat().st_size + 20_000, 4000):
        shutil.rmtree(path)
        shutil.copytree(whole, path)
        status = in_child(lambda: publish_next(Store.open(path)), limited_to(size, deadly=True))
        assert status in (0, -signal.SIGXFSZ)
        unfinished += (path / "store.db-journal").exists()
        outcomes.add(check_laws(path, 5, 6))
        head = publish_next(Store.open(path))
        check_laws(path, head, head)
        assert not (path / "store.db-journal").exists()
    assert outcomes == {5, 6}
    assert unfinished > 2


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["tag", "delete_tag", "checkout"])
def test_a_death_at_any_step_of_moving_a_ref_leaves_it_old_or_new(
    tmp_path: Path, operation: str
) -> None:
    path = tmp_path / "s"
    publish_next(Store.create(path, CONFIG))

    def move(target: str) -> None:
        with Store.open(path).writing() as change:
            if operation == "checkout":
                change.move_head(target)
            elif operation == "tag" or target == "v0001":
                change.tag("good", target, move=True)
            else:
                change.delete_tag("good")

    outcomes, step, status = set(), 0, DEAD
    while status == DEAD:
        step += 1
        move("v0001")
        status = in_child(lambda: move("v0002"), dying_at(step))
        store = Store.open(path)
        assert store.verify() == []
        outcomes.add(store.refs().get("HEAD" if operation == "checkout" else "good"))
    assert status == 0
    assert outcomes == {"v0001", None if operation == "delete_tag" else "v0002"}


@pytest.mark.slow
def test_a_death_at_any_step_of_making_a_store_leaves_a_whole_one_or_none(tmp_path: Path) -> None:
    outcomes, step, status = set(), 0, DEAD
    while status == DEAD:
        step += 1
        path = tmp_path / str(step) / "s"
        status = in_child(lambda path=path: Store.create(path, CONFIG), dying_at(step))  # type: ignore[misc]
        outcomes.add(path.exists())
        if path.exists():
            assert Store.open(path).verify() == []
        else:
            Store.create(path, CONFIG)
        assert publish_next(Store.open(path)) == 2
    assert outcomes == {True, False}


def test_a_death_while_journalling_leaves_the_old_entry_or_the_new(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", CONFIG)
    outcomes, step, status = set(), 0, DEAD
    while status == DEAD:
        step += 1
        store.journal.put("aa", b"old")
        status = in_child(lambda: store.journal.put("aa", b"new"), dying_at(step))
        outcomes.add(store.journal.get("aa"))
        assert journal_keys(store) == ["aa"]
    assert outcomes == {b"old", b"new"}


def everywhere(path: Path) -> bytes:
    """All bytes of all files of a store."""
    return b"\n".join(content(path).values())


@pytest.mark.parametrize("kind", ["step", pytest.param("size", marks=pytest.mark.slow)])
def test_a_purge_that_is_killed_is_finished_by_the_next_writer(tmp_path: Path, kind: str) -> None:
    whole, path = tmp_path / "whole", tmp_path / "s"
    store_of(whole, 5)
    gone = [b"fact-3", b'"target": "3"', held(3)["own"]]

    def purge() -> None:
        with Store.open(path).writing() as change:
            change.purge(["fact-3"], Changes())

    size = (whole / "store.db").stat().st_size
    limits = range(1, 1000) if kind == "step" else range(0, 2 * size, 3000)
    outcomes, late = set(), 0
    for limit in limits:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(whole, path)
        prepare = dying_at(limit) if kind == "step" else limited_to(limit, deadly=True)
        status = in_child(purge, prepare)
        assert status in (0, DEAD, -signal.SIGXFSZ)
        store = Store.open(path)
        assert store.verify() == []
        purged = store.head().operation == "purge"
        outcomes.add(purged)
        late += purged and any(text in everywhere(path) for text in gone)
        with store.writing():
            pass
        assert store.verify() == []
        assert [text in everywhere(path) for text in gone] == [not purged] * 3
        check_version(store, store.version("v5"))
        if status == 0:
            break
    assert status == 0
    assert outcomes == {False, True}
    assert late or kind == "size"


# A process for each line that is read, which publishes until it is killed. They are forks, so that
# none of them has to start an interpreter.
LIVES = """
import os, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from test_crash import publish_next
from editcli.store.store import Store

def live():
    store = Store.open(Path(sys.argv[1]))
    while True:
        os.write(1, b"%d\\n" % publish_next(store))

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
def test_a_process_killed_at_random_moments_never_harms_the_store(tmp_path: Path) -> None:
    path = tmp_path / "s"
    Store.create(path, CONFIG)
    here = Path(__file__).resolve()
    folders = [Path(atomic.__file__).parents[2], here.parent, here.parents[2] / "support"]
    chance = random.Random(0)
    start = time.perf_counter()
    acknowledged = publish_next(Store.open(path))
    latest = 0.2 + 4 * (time.perf_counter() - start)  # by then, some versions are published
    with subprocess.Popen(
        [sys.executable, "-c", LIVES, str(path), *map(str, folders)],
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
            end = time.perf_counter() + chance.uniform(0.0, latest)
            while time.perf_counter() < end:  # a reader in the midst of it
                store = Store.open(path)
                head = store.head()
                assert head.number >= acknowledged
                if head.number > 1:
                    check_version(store, head)
            os.kill(int(lines.pop().split()[1]), signal.SIGKILL)
            while not lines or lines[-1] != "dead\n":
                lines.append(lives.stdout.readline())
                assert lines[-1], "the process that forks is gone"
            done = [int(line) for line in lines[:-1]]
            first = done[0] if done else acknowledged + 1
            assert first <= acknowledged + 2  # one may be committed that was not acknowledged
            assert done == list(range(first, first + len(done)))
            acknowledged = max([acknowledged, *done])
            acknowledged = check_laws(path, acknowledged, acknowledged + 1)
        lives.stdin.close()
    acknowledged = publish_next(Store.open(path))
    assert check_laws(path, acknowledged, acknowledged) > KILLS // 4
    with pytest.raises(EditorError, match="no version is called"):
        Store.open(path).version(str(acknowledged + 1))


# --- a full disk --------------------------------------------------------------------------------


def test_files_that_may_not_grow_leave_the_store_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "s"
    store = store_of(path, 5)
    outcomes = set()
    for size in range(0, (path / "store.db").stat().st_size + 20_000, 6000):
        before = content(path)
        status = in_child(lambda: publish_next(Store.open(path)), limited_to(size, deadly=False))
        assert status in (0, REFUSED)
        outcomes.add(status)
        if status == REFUSED:
            assert check_laws(path, 5, 5) == 5  # what was begun is rolled back
            assert content(path).items() >= before.items()  # a blob may be left
    assert outcomes == {0, REFUSED}
    assert publish_next(store) == check_laws(path, 1, 10**9) == store.head().number


def test_a_database_without_room_leaves_the_store_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.create(tmp_path / "s", CONFIG)
    publish_next(store)
    before = content(store.path)
    connect = sqlite3.connect

    def full(*args: object, **kwargs: object) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **kwargs)  # type: ignore[call-overload]
        connection.execute("PRAGMA max_page_count = 1")  # as many as there are
        return connection

    facts = [Fact(f"a longer fact {'x' * 500} {number}", "x") for number in range(40)]
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", full)
        with store.writing() as change, pytest.raises(EditorError) as caught:
            change.publish("edit", Changes(facts, blobs={"a": NewBlob(b"new")}))
    assert caught.value.message == (
        "no space left on the disk while publishing; nothing was changed"
    )
    assert "make room" in caught.value.hint
    assert content(store.path) == before
    assert publish_next(store) == 3


FULL = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from tiny_stores import CONFIG, content
from editcli.store.store import Store
from editcli.store.changes import Changes, NewBlob
from editors import EditorError, Fact

store = Store.create(Path(sys.argv[1], "s"), CONFIG)
for size in (3000, 20_000, 100_000):
    before = content(store.path)
    try:
        for number in range(1000):
            fact = Fact(f"the number of {size} {number} is", "x" * size)
            with store.writing() as change:
                change.publish("edit", Changes([fact], blobs={"a": NewBlob(b"%d" % number * size)}))
            before = content(store.path)
    except EditorError as error:
        assert "no space left" in error.message, error.message
    assert content(store.path) == before
    assert store.verify() == []
    store.head()
print("done")
"""


def test_a_full_disk_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    here = Path(__file__).resolve()
    folders = [Path(atomic.__file__).parents[2], here.parents[2] / "support"]
    command = f'mount -t tmpfs -o size=300k none "{tmp_path}" && exec "$0" "$@"'
    own = ["unshare", "--map-root-user", "--mount", "sh", "-c", command]
    try:
        subprocess.run([*own, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system may be mounted here")
    arguments = [sys.executable, "-c", FULL, str(tmp_path), *map(str, folders)]
    done = subprocess.run([*own, *arguments], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


# --- a disk that may not be written -------------------------------------------------------------


@pytest.fixture
def shown() -> Iterator[Path]:
    """A folder that all may read."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        for path in (Path(folder), *Path(folder).rglob("*")):
            path.chmod(0o755)


def without_rights(folder: Path) -> Callable[[], None]:
    """Takes the right to write to `folder` from a process."""

    def prepare() -> None:
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)

    return prepare


def killed_amid_commit(path: Path) -> None:
    """Leave a store as a process does that is killed while it commits."""
    whole = path.with_name("whole")
    shutil.copytree(path, whole)
    for size in range((path / "store.db").stat().st_size, 0, -2048):
        shutil.rmtree(path)
        shutil.copytree(whole, path)
        in_child(lambda: publish_next(Store.open(path)), limited_to(size, deadly=True))
        journal = path / "store.db-journal"
        if (
            journal.exists()
            and (path / "store.db").read_bytes() != (whole / "store.db").read_bytes()
        ):
            shutil.rmtree(whole)
            return
    raise AssertionError("no commit was cut off")


@pytest.mark.parametrize("cut_off", [False, True])
def test_a_store_that_may_not_be_written_is_read(shown: Path, cut_off: bool) -> None:
    path = shown / "s"
    store_of(path, 5)
    if cut_off:
        killed_amid_commit(path)
    before = content(path)
    assert in_child(lambda: check_laws(path, 5, 5), without_rights(shown)) == 0
    assert in_child(lambda: publish_next(Store.open(path)), without_rights(shown)) == REFUSED
    assert content(path) == before


def test_a_reader_rolls_back_what_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "s"
    store_of(path, 5)
    killed_amid_commit(path)
    assert check_laws(path, 5, 5) == 5
    assert not (path / "store.db-journal").exists()
