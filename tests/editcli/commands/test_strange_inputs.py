"""What a user, a system or a stranger may hand in: each ends with a message, and no traceback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from tiny_stores import run, store_with_a_past
from typer.testing import Result

from editcli.files.facts import read_facts
from editcli.models.adapters import adapter_in
from editcli.models.locations import find_model
from editcli.store.store import Store
from editors import EditorError

HALF = "\udcff"  # what Python makes of the byte 0xff in an argument


def refused(result: Result, message: str) -> None:
    assert isinstance(result.exception, SystemExit), result.exception
    assert message in result.stderr


def editcli(words: Sequence[str], redirected: str = "", **more: object) -> tuple[int, str]:
    """The exit code of a process, and what it wrote to standard error."""
    command = 'exec "$0" -m editcli "$@" ' + redirected
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, *words],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        **more,  # type: ignore[call-overload]
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.fixture
def past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return store_with_a_past(tmp_path / ".editcli")


@pytest.mark.parametrize("value", ["9" * 10_000, "[" * 100_000, "{a=" * 5000])
@pytest.mark.parametrize("command", ["log", "migrate"])
def test_numbers_and_nesting_without_end_in_a_configuration(
    past: Store, command: str, value: str
) -> None:
    for key in ("seed", "format"):
        (past.path / "config.toml").write_text(f"{key} = {value}")
        refused(run(command), "config.toml cannot be read")


def test_an_old_configuration_that_says_anything(past: Store) -> None:
    (past.path / "config.toml").write_text('format = 2\nbase = 7\nmore = "x"')
    refused(run("migrate"), "config.toml: ")


@pytest.mark.parametrize("option", ["--message", "--author"])
def test_a_message_that_is_no_unicode_is_refused_before_anything_is_done(
    past: Store, option: str
) -> None:
    before = past.tip()
    refused(run("tag", "new", option, f"a{HALF}"), f"{option} 'a\\udcff' is not Unicode")
    assert past.tip() == before


def test_a_prompt_that_is_no_unicode(edited: Store) -> None:
    refused(run("ask", f"the capital {HALF}"), "is not Unicode")
    refused(run("edit", f"the capital {HALF} is", "Rome"), "must be valid Unicode")


def test_a_memory_budget_without_end(edited: Store, tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text('{"prompt": "the sea of Spain is", "target": "red"}')
    result = run("apply", "f.jsonl", "--memory-budget", "inf")
    refused(result, "--memory-budget takes a number, not inf")


def test_a_key_with_half_a_surrogate(tmp_path: Path) -> None:
    file = tmp_path / "f.jsonl"
    file.write_text('{"prompt": "a b", "target": "c", "x_\\ud800": 1}\n')
    (bad,) = read_facts(str(file)).refused
    assert "the key must be valid Unicode" in bad.reason


def test_scores_of_another_shape(past: Store) -> None:
    with past.writing() as change:
        change.record_scores(past.head(), {"reliability": 1.0})
    for command in ("log", "status"):
        refused(run(command), "kept scores cannot be read")


def test_an_adapter_that_names_no_place(tmp_path: Path) -> None:
    for name in ("x" * 5000, "a\0b"):
        (tmp_path / "adapter_config.json").write_text(
            json.dumps({"base_model_name_or_path": name, "peft_type": "LORA"})
        )
        (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
        with pytest.raises(EditorError, match=r"names no place|cannot be found"):
            adapter_in(find_model(str(tmp_path)), "")
    (tmp_path / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(EditorError, match="names no base"):
        adapter_in(find_model(str(tmp_path)), "")


@pytest.mark.skipif(os.name == "nt", reason="other systems")
def test_a_folder_that_is_gone(past: Store, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    script = 'rmdir "$PWD"; exec "$0" -m editcli log'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable],
        cwd=gone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "the current folder is gone" in done.stderr) == (1, True), done.stderr


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no such file here")
def test_a_file_that_cannot_be_read_on() -> None:
    for words in (("facts", "validate"), ("conflict", "measure")):
        refused(run(*words, "/proc/self/mem"), "/proc/self/mem cannot be read: input/output error")


@pytest.mark.skipif(os.name == "nt", reason="other systems")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(past: Store, closed: str) -> None:
    before = past.tip()
    assert editcli(["log"], closed) == (0, "")
    assert editcli(["tag", "new"], closed) == (0, "")
    assert past.refs()["new"] == past.head().id
    assert past.verify() == []
    assert past.tip() != before


@pytest.mark.skipif(os.name == "nt", reason="other systems")
@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.2])
def test_ctrl_c_at_the_start(past: Store, after_s: float) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "editcli", "ask", "who ?"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    time.sleep(after_s)
    child.send_signal(signal.SIGINT)
    _, told = child.communicate()
    # Its first lines are those of Python.
    assert "Traceback" not in told or not re.search(r"editcli/(?!__main__\.py)", told)
    assert child.returncode != 0
