"""Completion, by the protocol that shells speak: variables in, words out."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from tiny_stores import PARIS_AGAIN, ROME, store_with_a_past

import editcli
from editcli.store.changes import Changes
from editcli.store.store import Store
from editors import Fact

ROOT = str(Path(editcli.__file__).parents[1])
CALL = "import sys; sys.argv[0] = 'editcli'; from editcli.app import main; main()"


def answer(words: str, shell: str = "bash", variables: Mapping[str, str] | None = None) -> str:
    """What a shell is told for these words, of which the last may be empty."""
    last = words.count(" ")
    env = {"PYTHONPATH": ROOT, "PATH": os.environ["PATH"], "_EDITCLI_COMPLETE": f"complete_{shell}"}
    env |= {"COMP_WORDS": words, "COMP_CWORD": str(last), "_TYPER_COMPLETE_ARGS": words}
    done = subprocess.run(
        [sys.executable, "-c", CALL],
        env={**env, **(variables or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


def completed(words: str) -> list[str]:
    return answer(words).split()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """`store_with_a_past`, in the current folder."""
    monkeypatch.chdir(tmp_path)
    return store_with_a_past(tmp_path / ".editcli")


def test_versions_and_tags(store: Store) -> None:
    assert completed("editcli checkout ") == ["HEAD", "first", "v0004", "v0003", "v0002", "v0001"]
    assert completed("editcli diff v0001 f") == ["first"]
    assert completed("editcli report page.html --version v000") == [
        *("v0004", "v0003", "v0002", "v0001"),
    ]
    assert completed("editcli tag ") == ["first"]


def test_facts_by_their_ids_and_those_in_force_first(store: Store) -> None:
    assert completed("editcli undo ")[:2] == [PARIS_AGAIN.id, "HEAD"]
    assert completed(f"editcli show {ROME.id[:4]}") == [ROME.id]
    assert completed(f"editcli undo {ROME.id[:4]}") == [], "it is not in force"
    assert completed(f"editcli log --fact {ROME.id[:4]}") == [ROME.id]


def test_the_store_that_the_line_names_is_looked_into(store: Store, tmp_path: Path) -> None:
    moved = shutil.move(store.path, tmp_path / "elsewhere")
    assert completed("editcli checkout ") == []
    assert completed(f"editcli checkout --store {moved} fir") == ["first"]


def test_authors_and_operations(store: Store) -> None:
    assert completed("editcli log --who ") == ["ann", "bob"]
    assert completed("editcli log --operation che") == ["check", "checkout"]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("editcli init --method ", ["ft-m", "in-context", "wise"]),
        ("editcli init --scope ", ["key", "relation", "sentence"]),
        ("editcli init --set prof", ["profile=robust", "profile=separate", "profile=paper"]),
        ("editcli init --method in-context --set te", ["template="]),
        ("editcli init at", ["atlas"]),
        ("editcli facts convert --from zsre-", ["zsre-ans", "zsre-mend"]),
        ("editcli check --protocol ", ["generate", "both"]),
        ("editcli export --as l", ["lora"]),
        ("editcli ask --device c", ["cpu", "cuda"]),
        ("editcli facts v", ["validate"]),
    ],
)
def test_choices(words: str, wanted: list[str]) -> None:
    assert completed(words) == wanted


@pytest.mark.parametrize("words", ["editcli undo ", "editcli checkout v", "editcli log --who "])
def test_without_a_store_or_with_a_broken_one_it_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert completed(words) == []
    (tmp_path / ".editcli").mkdir()
    (tmp_path / ".editcli" / "config.toml").write_text("not a store")
    assert completed(words) == []


def test_prompts_are_the_help_and_no_shell_can_run_them(store: Store) -> None:
    bad = Fact("\\\"; touch ran; $(touch ran) `touch ran` [/INST] 'x' ((", "a\nb", subject=None)
    with store.writing() as change:
        change.publish("edit", Changes([bad]), who="$(touch ran)")
    shown = answer("editcli undo ", "zsh")
    assert f'"{PARIS_AGAIN.id}":"{PARIS_AGAIN.prompt} {PARIS_AGAIN.target}"' in shown
    [line] = [line for line in shown.splitlines() if bad.id in line]
    assert line.endswith(f'"{bad.id}":"touch ran touch ran touch ran INST x a b"')
    assert completed("editcli log --who ") == ["ann", "bob"]


def test_completing_loads_neither_torch_nor_transformers(store: Store) -> None:
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*{'torch', 'transformers', 'numpy'} & {*sys.modules}))\n"
        + CALL
    )
    for words in ("editcli undo ", "editcli init --set ", "editcli init --scope "):
        env = {"PYTHONPATH": ROOT, "PATH": "", "_EDITCLI_COMPLETE": "complete_bash"}
        env |= {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run(
            [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
        )
        *found, heavy = done.stdout.splitlines()
        assert found
        assert heavy == ""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_itself_completes(store: Store, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "editcli"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{CALL}" "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    env = {"PYTHONPATH": ROOT, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    script = (
        'eval "$(_EDITCLI_COMPLETE=source_bash editcli)"\n'
        "COMP_WORDS=(editcli checkout fi) COMP_CWORD=2\n"
        "_editcli_completion editcli\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=env, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("first\n", "")
