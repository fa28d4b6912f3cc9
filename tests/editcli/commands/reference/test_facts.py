"""`editcli facts`: what it prints where, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from editcli.app import app

GOOD = '{"prompt": "The capital of France is", "target": "Lyon"}'
RIVAL = '{"prompt": "The capital of France is", "target": "Nice"}'
BAD = '{"prompt": "The capital of France is ", "targt": "Lyon"}'


def facts(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(app, ["facts", *arguments], input=stdin)


def test_a_good_file_is_fine() -> None:
    result = facts("validate", "-", stdin=f"{GOOD}\n")
    assert result.exit_code == 0
    assert result.stdout.startswith("1 fact is fine, 0 lines are refused")
    assert result.stderr == ""


def test_every_bad_line_is_named_with_all_that_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    file.write_text(f"{BAD}\n{GOOD}\nnot json\n", encoding="utf-8")
    result = facts("validate", str(file))
    assert result.exit_code == 4
    first, second, summary = result.stdout.splitlines()
    assert first == (
        f"{file}:1: prompt: must not end with a space; target: is required; "
        "unknown key 'targt' (did you mean 'target'?)"
    )
    assert second.startswith(f"{file}:3: not JSON: ")
    assert summary.startswith("1 fact is fine, 2 lines are refused")
    assert result.stderr.startswith("hint: ")


def test_the_json_summary_is_one_object_with_a_schema() -> None:
    result = facts("validate", "-", "--json", stdin=f"{GOOD}\n{GOOD}\n{BAD}\n")
    assert result.exit_code == 4
    assert result.stderr == ""
    summary = json.loads(result.stdout)
    assert {key: summary[key] for key in ("schema", "file", "facts")} == {
        "schema": 2,
        "file": "<stdin>",
        "facts": 1,
    }
    assert [entry["line"] for entry in summary["refused_lines"]] == [3]
    assert [(entry["line"], entry["by"]) for entry in summary["duplicate_lines"]] == [(2, 1)]
    assert summary["superseded_lines"] == []


def test_quiet_leaves_only_the_findings() -> None:
    result = facts("validate", "-", "-q", stdin=f"{BAD}\n{GOOD}\n{GOOD}\n")
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr == ""


def test_contradictions_are_refused_until_the_newest_is_asked_for() -> None:
    stdin = f"{GOOD}\n{RIVAL}\n"
    refused = facts("validate", "-", stdin=stdin)
    assert refused.exit_code == 4
    assert "<stdin>:1: contradicts line 2" in refused.stdout
    assert "<stdin>:2: contradicts line 1" in refused.stdout
    assert "--on-conflict newest" in refused.stderr
    newest = facts("validate", "-", "--on-conflict", "newest", stdin=stdin)
    assert newest.exit_code == 0
    assert "<stdin>:1: superseded by line 2" in newest.stderr


def test_on_conflict_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITCLI_ON_CONFLICT", "newest")
    assert facts("validate", "-", stdin=f"{GOOD}\n{RIVAL}\n").exit_code == 0
    flag = facts("validate", "-", "--on-conflict", "refuse", stdin=f"{GOOD}\n{RIVAL}\n")
    assert flag.exit_code == 4


def test_dedupe_prints_each_fact_once_and_its_output_is_its_input() -> None:
    other = '{"prompt": "Zürich lies in", "target": "Österreich", "x_n": 1}'
    result = facts("dedupe", "-", stdin=f"{GOOD}\n{other}\n{GOOD}\n")
    assert result.exit_code == 0
    assert result.stdout == f"{GOOD}\n{other}\n"
    assert result.stderr == "<stdin>:3: same fact as line 1, left out\n"
    assert facts("dedupe", "-", "--json", stdin=result.stdout).stdout == result.stdout


def test_dedupe_prints_nothing_when_a_line_is_refused() -> None:
    result = facts("dedupe", "-", stdin=f"{GOOD}\n{BAD}\n")
    assert result.exit_code == 4
    assert result.stdout == ""
    assert "error: 1 line is refused in <stdin>\n<stdin>:2: " in result.stderr


def test_dedupe_can_leave_bad_lines_out_and_says_so() -> None:
    result = facts("dedupe", "-", "--skip-bad", stdin=f"{GOOD}\n{BAD}\n")
    assert result.exit_code == 4
    assert result.stdout == f"{GOOD}\n"
    assert "warning: left out <stdin>:2: " in result.stderr


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_facts_is_a_usage_error(content: str) -> None:
    result = facts("validate", "-", stdin=content)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: <stdin> holds no facts\n\nhint: ")


def test_markup_in_a_fact_is_shown_and_control_characters_are_escaped() -> None:
    line = json.dumps({"prompt": "[/INST] [red]\x1b[2J", "target": "x", "subject": "[b]\x1b"})
    result = facts("validate", "-", stdin=line)
    assert r"'[b]\x1b' does not occur" in result.stdout
    assert "\x1b" not in result.stdout
