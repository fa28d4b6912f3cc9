"""`editcli apply`: a file of facts is one version, or is refused line by line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load
from tiny_edits import FACTS, FRANCE, FRANCE_AGAIN, JAPAN
from tiny_stores import (
    blobs_in,
    changed_by,
    content,
    in_force,
    journal_keys,
    json_of,
    place_of,
    run,
    save_facts,
)
from torch.testing import assert_close

from editcli.store.edits import edits_of
from editcli.store.store import Store
from editors import Fact

KEYS = {
    *(
        "schema",
        "dry_run",
        "version",
        "parent",
        "applied",
        "refused",
        "superseded",
        "failed",
        "iterations",
    ),
    *("seconds", "seconds_per_edit", "peak_memory_bytes", "unchanged", "updated", "missed", "left"),
}
IDS = tuple(fact.id for fact in FACTS)
COUNTS = ("applied", "refused", "superseded", "unchanged", "left")
GOOD = json.dumps(FRANCE.to_dict())
BAD_ROWS = [{"prompt": "the sea is", "target_new": "red", "subject": "Rome"}]
LONG = "the " * 130 + "sea is"


@pytest.fixture
def facts(tmp_path: Path) -> str:
    """The four facts, as a file."""
    return str(save_facts(tmp_path / "facts.jsonl", FACTS))


def counts(record: dict[str, object]) -> list[object]:
    return [record[key] for key in COUNTS]


def blobs(store: Store) -> dict[str, str]:
    return blobs_in(store)


def test_a_file_is_one_version(empty: Store, facts: str) -> None:
    result = run("apply", facts, "-m", "nightly", "--author", "ann", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    record = json_of(result)
    assert set(record) == KEYS
    assert (record["version"], record["parent"], record["failed"]) == ("v0002", "v0001", [])
    assert counts(record) == [4, 0, 0, 0, 0]
    head = empty.head()
    assert (head.operation, head.who, head.message) == ("apply", "ann", "nightly")
    assert in_force(empty) == IDS
    assert changed_by(empty) == {"added": IDS}
    assert empty.verify() == []
    assert journal_keys(empty) == []
    for fact in FACTS:
        assert run("ask", fact.prompt).stdout == f"{fact.target}\n"


def test_fewer_facts_can_be_trained_together(empty: Store, facts: str) -> None:
    assert run("apply", facts, "--batch", "1", "-q").exit_code == 0
    made_from = edits_of(empty).payload.made_from
    first, second = (made_from[f"shard-000{number}.safetensors"] for number in range(2))
    assert first == ((IDS[0],), (IDS[1], IDS[0]))  # the older fact of the shard is trained again
    assert second == ((IDS[2],), (IDS[3], IDS[2]))


def test_people_read_one_line_and_no_progress_in_a_pipe(empty: Store, facts: str) -> None:
    result = run("apply", facts)
    assert result.stdout.startswith("v0002: 4 applied (")
    assert result.stdout.endswith(" s an edit)\n")
    assert result.stderr == ""


def test_quiet_prints_the_version_alone(empty: Store, facts: str) -> None:
    assert run("apply", facts, "-q").stdout == "v0002\n"
    again = run("apply", facts, "-q")
    assert (again.stdout, again.stderr) == ("v0002\n", "")


def test_facts_come_from_standard_input_too(edited: Store) -> None:
    """`editcli show --facts | editcli apply -` carries edits from store to store."""
    shown = run("show", "--facts")
    Path("other").mkdir()
    shutil.copytree(edited.path, "other/.editcli")
    assert run("checkout", "v0001", "--store", "other").exit_code == 0
    result = run("apply", "-", "--store", "other", "--json", stdin=shown.stdout)
    assert result.exit_code == 0
    assert json_of(result)["version"] == "v0003"
    assert blobs(Store.open(Path("other/.editcli").absolute())) == blobs(edited)


def test_the_same_file_again_changes_nothing_and_says_so(edited: Store, facts: str) -> None:
    before = content(edited.path)
    result = run("apply", facts)
    assert result.exit_code == 0
    assert result.stdout == "v0002: nothing to do, all 4 facts are in force already\n"
    record = json_of(run("apply", facts, "--json"))
    assert record["version"] == "v0002"
    assert counts(record) == [0, 0, 0, 4, 0]
    assert content(edited.path) == before


def test_a_limit_takes_the_first_facts_and_the_rest_later_gives_the_same(
    edited: Store, facts: str
) -> None:
    """Two facts fill a shard, so stopping there leaves no trace in the weights.

    Keys are the base's states seen in other company, which moves their last bits.
    """
    run("checkout", "v0001")
    assert counts(json_of(run("apply", facts, "--limit", "2", "--json"))) == [2, 0, 0, 0, 0]
    assert in_force(edited) == IDS[:2]
    assert counts(json_of(run("apply", facts, "--json"))) == [2, 0, 0, 2, 0]
    then = blobs_in(edited, "v0002")
    assert blobs(edited).keys() == then.keys()
    for blob in then:
        if not blob.startswith("scope-keys-"):
            assert blobs(edited)[blob] == then[blob]
            continue
        now, before = (load(place_of(edited, blob, ref).read_bytes()) for ref in ("HEAD", "v0002"))
        for name in now:
            assert_close(now[name], before[name], atol=1e-5, rtol=0)


def test_a_new_target_supersedes_the_older_edit(edited: Store) -> None:
    file = save_facts(Path("new.jsonl"), [FRANCE_AGAIN, JAPAN])
    result = run("apply", str(file), "--json")
    assert counts(json_of(result)) == [1, 0, 1, 1, 0]
    assert changed_by(edited)["superseded"] == (FRANCE.id,)
    assert run("ask", FRANCE.prompt).stdout == "Lima\n"
    text = run("apply", str(save_facts(Path("back.jsonl"), [FRANCE])))
    assert text.stdout.startswith("v0004: 1 applied, 1 superseded (")
    assert run("ask", FRANCE.prompt).stdout == "Rome\n"


def test_a_dry_run_says_what_would_be_done_without_the_model(
    edited: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("editcli.operations.session.load_store_base", None)
    sea = Fact("the sea is", "blue")
    file = str(save_facts(Path("new.jsonl"), [FRANCE_AGAIN, JAPAN, sea]))
    before = content(edited.path)
    result = run("apply", file, "--dry-run", "--json")
    assert result.exit_code == 0
    assert json_of(result) == {
        "schema": 2,
        "version": None,
        "parent": "v0002",
        "dry_run": True,
        "applied": 2,
        "superseded": 1,
        "unchanged": 1,
        "refused": 0,
    }
    told = run("apply", file, "-n", "--limit", "2").stdout
    assert told == "would apply 1 fact, supersede 1, leave alone what is in force already: 1\n"
    assert content(edited.path) == before


# --- other formats --------------------------------------------------------------------------


def flat(*facts: Fact) -> list[dict[str, str | None]]:
    """The facts as EasyEdit has them."""
    return [
        {"prompt": fact.prompt, "target_new": fact.target, "subject": fact.subject}
        for fact in facts
    ]


def test_the_file_of_a_public_set_is_applied_as_its_facts_are(empty: Store) -> None:
    Path("set.json").write_text(json.dumps(flat(*FACTS)))
    result = run("apply", "set.json")
    assert result.exit_code == 0
    assert result.stderr == "set.json is read as easyedit: flat rows, as EasyEdit has them\n"
    assert in_force(empty) == IDS
    Path("table.csv").write_text(f"prompt,target,subject\n{JAPAN.prompt},Bonn,Japan\n")
    assert run("apply", "table.csv").exit_code == 0
    assert [edits_of(empty).facts[name].target for name in changed_by(empty)["added"]] == ["Bonn"]


def test_a_row_that_can_be_no_fact_is_named_and_nothing_changes(edited: Store) -> None:
    Path("set.json").write_text(json.dumps(flat(FRANCE, replace(JAPAN, subject=None)) + BAD_ROWS))
    before = content(edited.path)
    result = run("apply", "set.json")
    assert (result.exit_code, result.stdout) == (4, "")
    error, finding, blank, hint = result.stderr.splitlines()
    assert error == "error: 1 record is refused in set.json"
    assert finding.startswith("set.json, record 3: subject: 'Rome' does not occur in the prompt")
    assert blank == ""
    assert "`editcli facts convert`" in hint
    assert "`--skip-bad`" in hint
    assert content(edited.path) == before


# --- lines at fault -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "the sea is", "target"', "not JSON: "),
        ('{"prompt": "the sea is", "target": ""}', "target: must not be empty"),
        ('{"prompt": "the sea is", "target": "red", "subject": "Rome"}', "subject: 'Rome' does"),
        ('{"promt": "the sea is", "target": "red"}', "did you mean 'prompt'?"),
        ('{"prompt": "' + LONG + '", "target": "red"}', "prompt: prompt and target have 135 tok"),
        ('{"prompt": "a", "target": "b", "id": "' + JAPAN.id + '"}', "names another fact in the"),
        (
            '{"prompt": "the sea is", "target": "red", "subject": "sea", "aliases": ["japan"]}',
            f"aliases: 'japan' is the subject of fact {JAPAN.id}; ",
        ),
        (
            json.dumps({**JAPAN.to_dict(), "id": JAPAN.id, "target": "Bonn"}),
            "needs an id of its own",
        ),
    ],
)
def test_a_bad_line_is_named_with_the_reason_and_nothing_changes(
    edited: Store, line: str, reason: str
) -> None:
    Path("facts.jsonl").write_text(f"{GOOD}\n\n{line}\n")
    before = content(edited.path)
    result = run("apply", "facts.jsonl")
    assert (result.exit_code, result.stdout) == (4, "")
    error, finding, blank, hint = result.stderr.splitlines()
    assert error == "error: 1 line is refused in facts.jsonl"
    assert finding.startswith("facts.jsonl:3: ")
    assert reason in finding
    assert (blank, "`--skip-bad`" in hint) == ("", True)
    assert content(edited.path) == before


def test_contradicting_lines_are_both_named(empty: Store) -> None:
    file = str(save_facts(Path("facts.jsonl"), [FRANCE, JAPAN, FRANCE_AGAIN]))
    before = content(empty.path)
    result = run("apply", file)
    assert (result.exit_code, result.stdout) == (4, "")
    assert f"{file}:1: contradicts line 3: the same prompt with the target 'Rome'" in result.stderr
    assert f"{file}:3: contradicts line 1: the same prompt with the target 'Lima'" in result.stderr
    assert "`--on-conflict newest`" in result.stderr
    assert content(empty.path) == before
    newest = run("apply", file, "--on-conflict", "newest")
    assert newest.exit_code == 0
    assert newest.stderr == f"{file}:1: superseded by line 3\n"
    assert in_force(empty) == (JAPAN.id, FRANCE_AGAIN.id)


def test_bad_lines_are_left_out_on_demand(empty: Store) -> None:
    long = json.dumps({"prompt": LONG, "target": "red"})
    Path("facts.jsonl").write_text(f"not json\n{GOOD}\n{long}\n")
    result = run("apply", "facts.jsonl", "--skip-bad", "--json")
    assert result.exit_code == 4
    assert counts(json_of(result)) == [1, 2, 0, 0, 0]
    first, second = result.stderr.splitlines()
    assert first.startswith("warning: left out facts.jsonl:1: not JSON: ")
    assert second.startswith("warning: left out facts.jsonl:3: prompt: prompt and target have ")
    assert in_force(empty) == (FRANCE.id,)
    dry = run("apply", "facts.jsonl", "--skip-bad", "--dry-run", "--json")
    assert dry.exit_code == 4
    assert json_of(dry)["refused"] == 1  # how long a prompt is, only the model can tell


def test_a_repeated_line_is_left_out_and_said_so(empty: Store) -> None:
    file = str(save_facts(Path("facts.jsonl"), [FRANCE, JAPAN, FRANCE]))
    result = run("apply", file)
    assert result.exit_code == 0
    assert result.stderr == f"{file}:3: same fact as line 1, left out\n"
    assert in_force(empty) == (FRANCE.id, JAPAN.id)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "cannot read facts.jsonl: no such file"),
        (b"", "facts.jsonl holds no facts"),
        (json.dumps(FRANCE.to_dict(), indent=1).encode(), "facts.jsonl is one JSON object"),
        (b'{"question": "q", "answer": "a"}', "facts.jsonl has no known format: its keys are "),
        (GOOD.encode("utf-16"), "facts.jsonl is UTF-16"),
    ],
)
def test_what_is_no_fact_file_is_a_usage_error(
    empty: Store, data: bytes | None, message: str
) -> None:
    if data is not None:
        Path("facts.jsonl").write_bytes(data)
    before = content(empty.path)
    result = run("apply", "facts.jsonl")
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert content(empty.path) == before


def test_facts_that_do_not_take_are_saved_and_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model_folder: Path,
    calibration: Path,
    facts: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ["--set", "max_steps=1", "--set", "confidence=1"]
    run("init", str(model_folder), "--calibration", str(calibration), *settings)
    result = run("apply", facts)
    assert result.exit_code == 1
    assert "4 applied, 4 failed" in result.stdout
    assert result.stderr.startswith("warning: 4 facts are saved, but not answered by the model: ")
    assert all(fact in result.stderr for fact in IDS)
