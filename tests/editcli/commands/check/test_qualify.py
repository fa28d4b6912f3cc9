"""`editcli qualify`, on the embedded model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_stores import json_of, run

from editcli import exit_codes
from editcli.files.packaged import datasets_dir


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    """Three facts of atlas, with rephrases and locality prompts."""
    lines = (datasets_dir() / "atlas" / "edits.jsonl").read_text().splitlines()[:3]
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_model_that_takes_edits_is_told_to_go(facts: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    result = run("qualify", "atlas", str(facts), "--budget", "1", "--json")
    record = json_of(result)
    assert (result.exit_code, record["go"], record["missed"]) == (0, True, [])
    assert (record["facts"], record["facts_in_file"]) == (3, 3)
    assert [*record["methods"]] == ["wise", "in-context"]
    own = record["methods"]["wise"]
    assert own["forms"]["plain"]["reliability"] == 1.0
    assert own["sampled"]["n"] == sum(
        1 + len(json.loads(line)["rephrases"]) for line in facts.read_text().splitlines()
    )
    assert sorted(tmp_path.iterdir()) == before, "no store is made"


def test_a_method_that_does_not_reach_the_limits_is_a_no(tmp_path: Path) -> None:
    unreadable = {"prompt": "Who wrote Hamlet?", "target": "Zzyv Qwx Vbnq", "subject": "Hamlet"}
    path = tmp_path / "facts.jsonl"
    path.write_text(json.dumps(unreadable))
    result = run("qualify", "atlas", str(path), "--method", "in-context", "--budget", "1")
    assert result.exit_code == exit_codes.BELOW_THRESHOLD
    assert result.stdout.splitlines()[-1] == "no"
    assert "is below" in result.stderr
