"""What every command promises: help with examples, errors on stderr, exit codes."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import editcli
from editcli.app import COMMANDS, app, command_paths
from editors import EditorError

PATHS = command_paths()
each_command = pytest.mark.parametrize("path", PATHS, ids=lambda path: " ".join(("editcli", *path)))
LEAVES = [p for p in PATHS if not any(other[: len(p)] == p and other != p for other in PATHS)]
each_leaf = pytest.mark.parametrize("path", LEAVES, ids=" ".join)


def help_of(path: tuple[str, ...]) -> str:
    result = CliRunner().invoke(app, [*path, "-h"], prog_name="editcli")
    assert result.exit_code == 0
    assert result.stderr == ""
    return result.stdout


@each_command
def test_every_command_has_help_with_examples_that_call_it(path: tuple[str, ...]) -> None:
    text = help_of(path)
    assert "Examples:" in text
    examples = text.partition("Examples:")[2].partition("\n\n")[0]
    called = " ".join(("editcli", *path))
    assert 2 <= examples.count("editcli") <= 6
    assert called in examples


@each_command
def test_help_is_plain_and_fits_a_terminal(path: tuple[str, ...]) -> None:
    text = help_of(path)
    assert text.isascii(), "help must survive any terminal"
    assert max(len(line) for line in text.splitlines()) <= 88


@each_leaf
def test_every_command_documents_all_its_parameters(path: tuple[str, ...]) -> None:
    command = typer.main.get_command(app)
    for word in path:
        command = command.commands[word]  # type: ignore[attr-defined]
    assert [p.name for p in command.params if not getattr(p, "help", None)] == []


@each_leaf
def test_an_unknown_flag_is_a_usage_error_on_stderr(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*path, "--no-such-flag"], prog_name="editcli")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "--no-such-flag" in result.stderr


@each_command
def test_a_page_that_help_names_is_in_the_docs(path: tuple[str, ...]) -> None:
    root = Path(editcli.__file__).parents[1]
    if (root / "docs").is_dir():
        named = re.findall(r"\bdocs/[\w./-]*\w", help_of(path))
        assert [name for name in named if not (root / name).is_file()] == []


def test_commands_are_listed_under_their_panel() -> None:
    text = help_of(())
    listed = {}
    for panel in COMMANDS:
        section = text.partition(f"\n{panel}:\n")[2].partition("\n\n")[0]
        listed[panel] = re.findall(r"^  (\w+)", section, re.MULTILINE)
    assert listed == {
        panel: [module.rpartition(".")[2] for module in modules]
        for panel, modules in COMMANDS.items()
    }


def test_every_command_module_is_registered() -> None:
    folder = Path(editcli.__file__).parent / "commands"
    modules = {path.stem for path in folder.glob("[!_]*.py")}
    for package in sorted(path.parent.name for path in folder.glob("*/__init__.py")):
        parts = {path.stem for path in (folder / package).glob("[!_]*.py")}
        if hasattr(import_module(f"editcli.commands.{package}"), "group"):
            modules.add(package)
            commands = {
                part
                for part in parts
                if hasattr(import_module(f"editcli.commands.{package}.{part}"), "command")
            }
            assert {words[1] for words in PATHS if words[:1] == (package,) and len(words) > 1} == (
                commands
            )
        else:
            modules |= {f"{package}.{part}" for part in parts}
    registered = [module for modules in COMMANDS.values() for module in modules]
    assert sorted(registered) == sorted(modules)


def test_panels_are_the_folders_of_the_commands() -> None:
    for panel, modules in COMMANDS.items():
        folders = {module.partition(".")[0] for module in modules}
        assert len(folders) == 1
        assert panel.lower().startswith(folders.pop())


def test_an_unknown_command_gets_a_suggestion() -> None:
    result = CliRunner().invoke(app, ["fact"])
    assert result.exit_code == 2
    assert "Did you mean 'facts'?" in result.stderr


def test_version_names_editcli_torch_and_transformers() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.stdout.splitlines() == [
        f"editcli {editcli.__version__}",
        f"torch {metadata.version('torch')}",
        f"transformers {metadata.version('transformers')}",
    ]


def test_an_error_ends_with_its_hint_and_code_on_stderr(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["facts", "validate", str(tmp_path / "absent.jsonl")])
    assert result.exit_code == 2
    assert result.stdout == ""
    error, blank, hint = result.stderr.splitlines()
    assert error.startswith("error: cannot read ")
    assert blank == ""
    assert hint.startswith("hint: `")


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITCLI_DEBUG", "1")
    result = CliRunner().invoke(app, ["facts", "validate", "absent.jsonl"])
    assert isinstance(result.exception, EditorError)


def test_ctrl_c_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("editcli.commands.reference.facts.read_facts", interrupted)
    result = CliRunner().invoke(app, ["facts", "validate", "any.jsonl"])
    assert result.exit_code == 130
    assert result.stderr == "error: interrupted\n"


def test_ctrl_c_at_the_very_end_breaks_into_nothing() -> None:
    script = (
        "import os, signal, sys\n"
        "from editcli.app import main\n"
        "sys.argv = ['editcli', '--version']\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_package_runs_as_a_module_outside_the_checkout(tmp_path: Path) -> None:
    root = str(Path(editcli.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "editcli", "facts", "validate", "-"],
        input='{"prompt": "a", "target": ""}\n',
        env={"PYTHONPATH": root, "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert "<stdin>:1: target: must not be empty" in done.stdout
