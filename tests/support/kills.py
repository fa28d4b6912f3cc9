"""Killing commands at random moments, and what must hold of their stores afterwards."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tiny_stores import content
from writing_commands import STORE, WritingCommand

from editcli.store.edits import edits_of
from editcli.store.files.atomic import TEMP_PREFIX
from editcli.store.store import Store
from editors import EditorError
from editors.methods.edit_state import HEAD_MASK

LOCKED, COMMITTING = "lock.json", "store.db-journal"
NEXT = "next"  # a tag, which the next command that writes gives
LOOK_S = 0.0002  # between two looks at the store
MOST_WRONG = 100  # findings, after which there is no going on
AGAIN_EVERY = 10  # after so many kills, the command is run once more, to its end
OLD = "an old store"  # what is believed in one that is still to be migrated

Beliefs = dict[str, Any]


def beliefs(store: Store) -> Beliefs:
    """All that a store believes and tells, without times. Raises EditorError where it is
    damaged."""
    versions = {}
    head = store.head()
    for version in store.versions():
        try:
            edits_of(store, version, whole=version == head)
            usable = ""
        except EditorError as error:  # of a fact that was purged
            usable = error.message
        blobs = store.blobs(version)
        told: dict[str, Any] = {name: blob.digest for name, blob in blobs.items()}
        if HEAD_MASK in told:
            told[HEAD_MASK] = _timeless(json.loads(store.read(HEAD_MASK, blobs[HEAD_MASK])))
        versions[version.id] = {
            "about": (version.parent, version.operation, version.message, version.changes),
            "facts": [entry.fact for entry in store.in_force(version)],
            "blobs": told,
            "usable": usable,
        }
    events = [(event.operation, event.version, event.tag) for event, _ in store.history()]
    refs = store.refs()
    if refs.pop(NEXT, None):
        events.pop()
    return {"versions": versions, "refs": refs, "events": events, "scores": store.all_scores()}


def _timeless(record: Any) -> Any:
    """A record without what it says of seconds."""
    if isinstance(record, dict):
        return {key: _timeless(value) for key, value in record.items() if key != "seconds"}
    return record


@dataclass
class Tally:
    """What became of one command: the numbers of ``kills``, of those that hit while it held the
    lock (``locked``) and in the midst of a commit (``committing``), of those after which the change
    was there (``kept``), and what was found wrong."""

    command: str
    kills: int = 0
    locked: int = 0
    committing: int = 0
    kept: int = 0
    lost: list[str] = field(default_factory=list)
    unclean: list[str] = field(default_factory=list)


class Killer:
    """Kills one command again and again, each time with a fresh copy of its store in ``folder``."""

    def __init__(self, command: WritingCommand, folder: Path, seed: int) -> None:
        self.command = command
        self.home, self._told = folder / "home", folder
        folder.mkdir(exist_ok=True)
        self.store = self.home / STORE
        self.tally = Tally(command.name)
        self._chance = random.Random(f"{seed} {command.name}")
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.copytree(command.home, self.home)
        before = self._believed()
        if self._ended(self._started()) != 0:
            raise AssertionError(self._printed("err"))
        after = self._believed()
        self._states = {"after": before if after == before else after, "before": before}

    def kill(self, times: int) -> None:
        """Kill the command so often, each time at a random moment, from its start on."""
        self._kill(times, self._started)

    def kill_writing(self, times: int) -> None:
        """Kill the command so often, each time at a random moment, from that moment on at which it
        is about to take the lock: one process comes to it, and is forked there."""
        report = self.home / "tally"

        def writing(store: Store, *args: Any) -> Any:
            Store.writing = real  # type: ignore[method-assign]

            def forked() -> int:
                sys.stdout.flush()
                os.ftruncate(1, 0)
                os.lseek(1, 0, os.SEEK_SET)
                return os.fork()

            child = 1
            try:
                child = self._kill(times, forked)
                report.write_text(json.dumps(asdict(self.tally)))
            except BaseException:
                traceback.print_exc()
            finally:
                if child:
                    os._exit(0)
            return real(store, *args)

        real, Store.writing = Store.writing, writing  # type: ignore[method-assign,assignment]
        try:
            self._fresh()
            child = self._started()
        finally:
            Store.writing = real  # type: ignore[method-assign]
        self._ended(child)
        assert report.exists(), self._printed("err")
        self.tally = Tally(**json.loads(report.read_text()))
        report.unlink()

    def _kill(self, times: int, start: Callable[[], int]) -> int:
        """Kill processes, that ``start`` starts, until so many were alive when it hit them. Returns
        0 in one that is to run, if that is what ``start`` does."""
        windows: dict[str, float] = {}
        wanted = self.tally.kills + times
        while self.tally.kills < wanted:
            self._fresh()
            if not windows:  # the seconds that it takes, from when a file is first seen
                child = start()
                if not child:
                    return 0
                windows = self._measured(child)
                continue
            seen = self._chance.choice(sorted(windows))
            delay = self._chance.uniform(0, 1.1 * windows[seen])
            child = start()
            if not child:
                return 0
            self._look(self._killed(child, seen, delay))
        return 1

    def _measured(self, child: int) -> dict[str, float]:
        first = {"": time.perf_counter()}
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(LOOK_S)
            for name in (LOCKED, COMMITTING):
                if name not in first and self._has(name):
                    first[name] = time.perf_counter()
        end = time.perf_counter()
        return {name: end - at for name, at in first.items()}

    def _killed(self, child: int, seen: str, delay: float) -> int:
        """Kill a process that much time after the file ``seen`` appears in the store. Returns how
        it ended."""
        while seen and not self._has(seen):
            time.sleep(LOOK_S)
            if (ended := os.waitpid(child, os.WNOHANG))[0]:
                return os.waitstatus_to_exitcode(ended[1])
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        return self._ended(child)

    def _look(self, code: int) -> None:
        """See what a command has left that ended with that exit code, or was killed."""
        if len(self.tally.lost) + len(self.tally.unclean) > MOST_WRONG:
            raise AssertionError(self.tally)
        tally, said = self.tally, bool(self._printed("out"))
        locked, committing = self._has(LOCKED), self._has(COMMITTING)
        state = self._state()
        told = f"{state}, exit code {code}, {said=}: {self._printed('err')}"
        if code not in (0, -signal.SIGKILL):
            tally.unclean.append(told)
        elif state == "lost" or (state != "after" and (said or code == 0)):
            tally.lost.append(told)
        if code != -signal.SIGKILL:
            return  # it had ended before
        tally.kills += 1
        tally.locked += locked
        tally.committing += committing
        tally.kept += state == "after"
        again = tally.kills % AGAIN_EVERY == 0
        if self._untouched() and not again:
            return
        if state == "before" and (again or self._is_old()):
            code = self._ended(self._started())
            if (state := self._state()) != "after":
                found = f"{state}, when it is run again, exit code {code}: {self._printed('err')}"
                tally.unclean.append(found)
        elif state != "lost":
            with Store.open(self.store).writing() as transaction:
                transaction.tag(NEXT)
            if again and (found := self._state()) != state:
                tally.lost.append(f"{found}, and {state} before the next command")
        self._look_for_remains(state)

    def _look_for_remains(self, state: str) -> None:
        """A command that wrote since has left no traces of the kill."""
        left = [*self.home.rglob(f"{TEMP_PREFIX}*")]
        left += [path for name in (LOCKED, COMMITTING) if (path := self.store / name).exists()]
        left += [p for p in self.home.iterdir() if p.name.startswith(f"{STORE}.new")]
        self.tally.unclean += [f"{path.relative_to(self.home)} is left" for path in left]
        if state == "after":
            held = b"\n".join(p.read_bytes() for p in self.store.rglob("*") if p.is_file())
            words = [word for word in self.command.purged if word.encode() in held]
            self.tally.unclean += [f"{word} is still there" for word in words]

    def _started(self) -> int:
        """A process, forked from this one, that runs the command in its folder. What it prints goes
        to files beside it, so that they tell whether it has said that it is done."""
        child = os.fork()
        if child:
            return child
        status = 1
        try:
            os.chdir(self.home)
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(self._told / name, os.O_CREAT | os.O_RDWR | os.O_TRUNC), number)
            sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
            os.environ["EDITCLI_MODEL"] = str(self.command.model)
            os.environ["EDITCLI_THREADS"] = "1"  # other threads would not survive a fork
            sys.argv = ["editcli", *self.command.words]
            from editcli.app import main

            try:
                main()
            except SystemExit as ended:
                status = ended.code if isinstance(ended.code, int) else 1
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    @staticmethod
    def _ended(child: int) -> int:
        """The exit code of a process, or the negative of the signal that killed it."""
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _fresh(self) -> None:
        """The folder as it was before the command; the folder itself stays."""
        for path in self.home.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        for path in self.command.home.iterdir():
            if path.is_dir():
                shutil.copytree(path, self.home / path.name)
        for name in ("out", "err"):
            (self._told / name).write_bytes(b"")  # a process that is forked has it open

    def _has(self, name: str) -> bool:
        return (self.store / name).exists()

    def _printed(self, name: str) -> str:
        """The end of what the command has printed there so far."""
        path = self._told / name
        return path.read_text()[-500:] if path.exists() else ""

    def _untouched(self) -> bool:
        """Whether each file of the store is as it was before, but for the lock."""
        before, now = content(self.command.home / STORE), content(self.store)
        now.pop(LOCKED, None)
        return before == now and not self._has(COMMITTING)

    def _is_old(self) -> bool:
        return b"format = 2" in (self.store / "config.toml").read_bytes()

    def _believed(self) -> Beliefs | str:
        try:
            return beliefs(Store.open(self.store))
        except EditorError as error:
            if "editcli migrate" not in error.hint:
                raise
            return OLD

    def _state(self) -> str:
        """Whether the store is as it was "before" the command, or as it is "after" it, or "lost".
        What `verify` finds is noted."""
        if self._untouched():
            return "before"
        try:
            found = self._believed()
            if found != OLD:
                self._verify()
        except EditorError as error:
            self.tally.unclean.append(f"{error.message}; {error.hint}")
            return "lost"
        return next((name for name, state in self._states.items() if found == state), "lost")

    def _verify(self) -> None:
        problems = Store.open(self.store).verify()
        self.tally.unclean += [f"{problem.what} {problem.detail}" for problem in problems]
