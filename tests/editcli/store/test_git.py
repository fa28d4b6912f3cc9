"""A store that is kept in git works after a clone, also where git would change line endings."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tiny_stores import PARIS_AGAIN, ROME, content, in_force, shard, store_with_a_past

from editcli.store.changes import Changes, NewBlob
from editcli.store.edits import edits_of
from editcli.store.store import Store

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

CRLF = b"lines\r\nof\nboth kinds\r\n"


def git(*words: str, cwd: Path, **settings: str) -> str:
    """What git prints; nothing of the user's own settings counts."""
    own = {"user.name": "ann", "user.email": "ann@x", "init.defaultBranch": "main", **settings}
    options = [word for key, value in own.items() for word in ("-c", f"{key}={value}")]
    environment = {"HOME": str(cwd), "PATH": "/usr/bin:/bin", "GIT_CONFIG_NOSYSTEM": "1"}
    command = [shutil.which("git") or "git", *options, *words]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("autocrlf", ["false", "true", "input"])
def test_a_clone_holds_what_the_store_holds_and_can_be_changed(
    tmp_path: Path, autocrlf: str
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    store = store_with_a_past(here / ".editcli")
    with store.writing() as change:
        change.publish("edit", Changes(blobs={"crlf": NewBlob(CRLF), "nul": NewBlob(b"\0\r\n")}))
    store.journal.put("ab", b"trained, and not published")
    before, tip = content(store.path), store.tip()
    del before["journal/ab"]
    git("init", cwd=here)
    git("add", ".", cwd=here, **{"core.autocrlf": autocrlf})
    git("commit", "-m", "a store", cwd=here, **{"core.autocrlf": autocrlf})
    git("clone", str(here), str(there), cwd=tmp_path, **{"core.autocrlf": autocrlf})

    assert not (there / ".editcli" / "journal").exists()  # git keeps no empty folder
    clone = Store.open(there / ".editcli")
    assert content(clone.path) == before
    assert clone.verify() == []
    assert clone.tip() == tip
    assert in_force(clone) == (PARIS_AGAIN.id,)
    assert edits_of(clone, whole=True).in_force() == [PARIS_AGAIN]
    assert clone.read("crlf", clone.blobs(clone.head())["crlf"]) == CRLF
    assert clone.journal.get("ab") is None
    assert clone.journal.entries() == []
    assert clone.journal.older_than(0) == []
    with clone.writing() as change:
        clone.journal.put("cd", b"trained here")
        change.publish("edit", Changes([ROME], blobs=shard(2, [ROME])))
        change.tag("cloned")
    assert clone.verify() == []
    assert in_force(clone) == (PARIS_AGAIN.id, ROME.id)
    # What is committed there is what is fetched here: a version and a tag.
    git("add", ".", cwd=there, **{"core.autocrlf": autocrlf})
    git("commit", "-m", "more of it", cwd=there, **{"core.autocrlf": autocrlf})
    git("pull", str(there), "main", cwd=here, **{"core.autocrlf": autocrlf})
    assert store.tip() == clone.tip()
    assert store.verify() == []
