"""Errors end every command in the same way: a message and a hint, or one JSON record."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, get_origin

import pytest
import typer
from tiny_stores import run

import editcli
from editcli import errors, exit_codes
from editcli.app import app, command_paths
from editcli.cli.ending import wants_json
from editors import EditorError
from editors import errors as errors_of_editors

ROOT = Path(__file__).parents[3]
PATHS = command_paths()
LEAVES = [p for p in PATHS if not any(other[: len(p)] == p and other != p for other in PATHS)]
each_leaf = pytest.mark.parametrize("path", LEAVES, ids=" ".join)


def parameters(path: tuple[str, ...]) -> list[Any]:
    command: Any = typer.main.get_command(app)
    for word in path:
        command = command.commands[word]
    return list(command.params)


def error_of(*words: str) -> dict[str, Any]:
    """The error that a command printed as JSON, whose exit code it ended with."""
    result = run(*words)
    assert result.stderr == ""
    [line] = result.stdout.splitlines()
    record = json.loads(line)
    assert set(record) == {"schema", "error"}
    error: dict[str, Any] = record["error"]
    assert set(error) == {"kind", "message", "hint", "exit_code"}
    assert error["exit_code"] == result.exit_code
    return error


@each_leaf
def test_an_unknown_option_is_one_json_record(path: tuple[str, ...]) -> None:
    error = error_of(*path, "--no-such-flag", "--json")
    assert (error["kind"], error["exit_code"]) == ("usage", 2)
    assert error["message"].startswith("no such option: --no-such-flag")
    assert f" {' '.join(path)} --help`" in error["hint"]


@pytest.mark.parametrize(
    "path", [p for p in LEAVES if any(q.required for q in parameters(p))], ids=" ".join
)
def test_a_missing_argument_is_one_json_record(path: tuple[str, ...]) -> None:
    error = error_of(*path, "--json")
    assert error["kind"] == "usage"
    assert error["message"].startswith("missing ")


def choices() -> list[tuple[tuple[str, ...], str]]:
    """Every option of every command that takes a number or one of some words."""

    def is_checked(parameter: Any) -> bool:
        if parameter.param_type_name == "argument" or parameter.is_flag or parameter.count:
            return False
        taken = parameter.type_descriptor.annotation
        return taken in (int, float) or get_origin(taken) is Literal

    return [(path, p.opts[0]) for path in LEAVES for p in parameters(path) if is_checked(p)]


@pytest.mark.parametrize(("path", "option"), choices(), ids=str)
def test_a_bad_value_is_one_json_record_in_our_own_words(
    path: tuple[str, ...], option: str
) -> None:
    error = error_of(*path, option, "no such choice", "--json")
    assert error["kind"] == "usage"
    assert error["message"].startswith(f"invalid value for '{option}'")
    assert not re.search(r"Value error|Input should", error["message"])


def test_an_unknown_command_is_one_json_record() -> None:
    error = error_of("fact", "--json")
    assert error["message"].endswith("Did you mean 'facts'?")


def test_the_parser_speaks_as_all_other_errors_do() -> None:
    result = run("ask", "-5 degrees is")
    assert (result.exit_code, result.stdout) == (2, "")
    message, blank, hint = result.stderr.splitlines()
    assert message.startswith("error: no such option: -5")
    assert blank == ""
    assert hint.startswith("hint: `")
    assert "`--` goes before text that begins with a hyphen" in hint


def test_without_a_store_the_record_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = error_of("log", "--json")
    assert (error["kind"], error["exit_code"]) == ("no_store", 1)
    assert error["hint"].startswith("`editcli init` makes one")


def test_ctrl_c_is_one_json_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("editcli.commands.reference.facts.read_facts", interrupted)
    error = error_of("facts", "validate", "any.jsonl", "--json")
    assert (error["kind"], error["hint"], error["exit_code"]) == ("interrupted", None, 130)


def test_what_nobody_foresaw_is_a_record_and_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("editcli.commands.reference.facts.read_facts", broken)
    result = run("facts", "validate", "any.jsonl", "--json")
    assert isinstance(result.exception, ZeroDivisionError)
    error = json.loads(result.stdout)["error"]
    assert (error["kind"], error["message"]) == ("defect", "ZeroDivisionError: by zero")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("option", [[], ["--json"]], ids=["text", "json"])
def test_a_full_disk_is_one_message(option: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "editcli", "methods", *option],
            env={**os.environ, "PYTHONPATH": str(Path(editcli.__file__).parents[1])},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "error: no space left on device\n")


def test_json_is_asked_for_by_the_option_and_not_by_text() -> None:
    assert wants_json(["ask", "a", "--json"])
    assert not wants_json(["ask", "--", "--json"])
    assert not wants_json(["ask", "a --json"])


def kinds() -> dict[str, type[EditorError]]:
    modules = (errors, errors_of_editors)
    classes = [value for module in modules for value in vars(module).values()]
    found = [c for c in classes if isinstance(c, type) and issubclass(c, EditorError)]
    assert len({c.kind for c in found}) == len({*found})
    return {c.kind: c for c in found}


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="docs are not there")
def test_every_kind_of_error_is_documented_with_its_exit_code() -> None:
    text = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \| (\d+) \|", text.partition("## Errors")[2], re.MULTILINE)
    assert dict(listed) == {kind: str(c.exit_code) for kind, c in kinds().items()}


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="docs are not there")
def test_the_table_of_exit_codes_is_that_of_the_program() -> None:
    text = (ROOT / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", text, re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == exit_codes.MEANINGS
    assert {value for value in vars(exit_codes).values() if isinstance(value, int)} == {
        *exit_codes.MEANINGS
    }


def test_help_has_all_exit_codes() -> None:
    told = " ".join(run("--help").stdout.split())
    for code, meaning in exit_codes.MEANINGS.items():
        assert f"{code} {meaning}" in told
    assert "docs/exit-codes.md" in told
