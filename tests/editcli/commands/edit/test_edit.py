"""`editcli edit`: one fact, one version, or nothing at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_edits import FRANCE, FRANCE_AGAIN, JAPAN, PERU
from tiny_stores import blobs_in, changed_by, content, in_force, json_of, run, save_facts

from editcli.cli.options import Invocation
from editcli.operations.session import Session
from editcli.store.edits import edits_of
from editcli.store.store import Store
from editors import FactClosure

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
    *(
        "seconds",
        "seconds_per_edit",
        "peak_memory_bytes",
        "unchanged",
        "updated",
        "missed",
        "left",
        "fact",
    ),
}
FRANCE_IS_ROME = (FRANCE.prompt, FRANCE.target, "--subject", "France")
FRANCE_IS_LIMA = (FRANCE.prompt, FRANCE_AGAIN.target, "--subject", "France")


def test_an_edit_is_a_version_and_the_model_says_so(empty: Store) -> None:
    result = run("edit", *FRANCE_IS_ROME, "--author", "ann", "-m", "a try", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    record = json_of(result)
    assert set(record) == KEYS
    assert (record["version"], record["parent"]) == ("v0002", "v0001")
    counts = ("applied", "refused", "superseded", "unchanged", "left", "failed")
    assert [record[key] for key in counts] == [1, 0, 0, 0, 0, []]
    assert record["fact"] == FRANCE.id
    assert record["iterations"] > 0
    head = empty.head()
    assert (head.operation, head.who, head.message) == ("edit", "ann", "a try")
    assert in_force(empty) == (FRANCE.id,)
    assert changed_by(empty) == {"added": (FRANCE.id,)}
    assert run("ask", FRANCE.prompt).stdout == "Rome\n"
    assert run("ask", FRANCE.prompt, "--version", "1").stdout != "Rome\n"


def test_an_edit_tells_people_the_version_and_the_fact(empty: Store) -> None:
    result = run("edit", *FRANCE_IS_ROME)
    first, second = result.stdout.splitlines()
    assert first.startswith("v0002: edited in ")
    assert second == f"fact {FRANCE.id}"
    assert result.stderr == ""


def test_a_target_with_a_special_token_is_refused(empty: Store, tmp_path: Path) -> None:
    said = "Rome </s> Lima"
    result = run("edit", FRANCE.prompt, said, "--subject", "France")
    assert result.exit_code != 0
    assert "target: '</s>' is a special token of the model" in result.stderr
    file = save_facts(tmp_path / "facts.jsonl", [JAPAN, replace(PERU, target=said)])
    assert "facts.jsonl:2" in run("apply", str(file)).stderr
    assert changed_by(empty) in ({}, {"added": (JAPAN.id,)})


def test_quiet_prints_the_version_alone(empty: Store) -> None:
    result = run("edit", FRANCE.prompt, FRANCE.target, "-q")
    assert (result.stdout, result.stderr) == ("v0002\n", "")


def test_an_edit_without_a_subject_gets_a_hint_of_what_it_misses(empty: Store) -> None:
    result = run("edit", FRANCE.prompt, FRANCE.target)
    assert result.exit_code == 0
    assert result.stderr.startswith("hint: without a subject, the edit misses more")


def test_an_edit_is_answered_under_an_alias(empty: Store) -> None:
    assert run("edit", *FRANCE_IS_ROME, "--alias", "Spain", "--alias", "the sea").exit_code == 0
    assert edits_of(empty).in_force()[0].aliases == ("Spain", "the sea")
    for name in ("France", "Spain", "sea"):
        assert run("ask", f"the capital of {name} is").stdout == "Rome\n"


def test_an_alias_that_is_a_subject_in_force_is_refused_and_nothing_changes(edited: Store) -> None:
    before = content(edited.path)
    result = run("edit", "the sea is", "red", "-s", "sea", "--alias", "France")
    assert result.exit_code == 2
    assert f"aliases: 'France' is the subject of fact {FRANCE.id}; " in result.stderr
    assert content(edited.path) == before


def test_a_new_alias_of_a_fact_in_force_is_trained(edited: Store) -> None:
    result = run("edit", *FRANCE_IS_ROME, "--alias", "Spain")
    assert result.exit_code == 0
    assert edits_of(edited).find(FRANCE.id).aliases == ("Spain",)
    assert run("ask", "the capital of Spain is", "-q").stdout == f"{FRANCE.target}\n"


def test_the_same_edit_again_changes_nothing_and_says_so(edited: Store) -> None:
    before = content(edited.path)
    result = run("edit", *FRANCE_IS_ROME)
    assert result.exit_code == 0
    assert result.stdout.startswith("v0002: the model is already edited to say so; nothing was")
    record = json_of(run("edit", *FRANCE_IS_ROME, "--json"))
    assert (record["version"], record["applied"], record["unchanged"]) == ("v0002", 0, 1)
    assert record["fact"] == FRANCE.id
    assert content(edited.path) == before


def test_a_new_target_supersedes_the_older_edit(edited: Store) -> None:
    result = run("edit", *FRANCE_IS_LIMA)
    assert result.exit_code == 0
    assert result.stdout.startswith("v0003: edited in place of an older edit in ")
    assert changed_by(edited) == {"added": (FRANCE_AGAIN.id,), "superseded": (FRANCE.id,)}
    assert edits_of(edited).closed == {FRANCE.id: FactClosure("superseded", FRANCE_AGAIN.id)}
    assert run("ask", FRANCE.prompt).stdout == "Lima\n"
    assert run("ask", FRANCE.prompt, "--version", "v0002").stdout == "Rome\n"


def test_a_version_shares_the_shards_it_did_not_touch(edited: Store) -> None:
    run("edit", *FRANCE_IS_LIMA)
    before, after = blobs_in(edited, "v0002"), blobs_in(edited)
    shards = [name for name in before if name.startswith("shard-")]
    assert len(shards) == 2
    for name in (*shards, "scope.safetensors"):
        assert after[name] == before[name]
    assert set(after) - set(before) == {"shard-0002.safetensors", "scope-keys-0001.safetensors"}


def test_a_version_holds_all_that_the_flags_say_of_the_fact(empty: Store) -> None:
    words = ["--rephrase", "France has the capital", "--variant", "what is France ?"]
    probes = ["--near", "the river of France is", "--far", "the sea is"]
    result = run(
        "edit", *FRANCE_IS_ROME, *words, *probes, "--source", "a book", "--author", "ann", "--json"
    )
    fact = json_of(run("show", json_of(result)["fact"], "--json"))["content"]
    assert fact == {
        "id": FRANCE.id,
        "prompt": FRANCE.prompt,
        "target": "Rome",
        "subject": "France",
        "rephrases": ["France has the capital"],
        "variants": ["what is France ?"],
        "locality": [
            {"prompt": "the river of France is", "kind": "near"},
            {"prompt": "the sea is"},
        ],
        "source": "a book",
        "author": "ann",
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["the sea is", ""], "target: must not be empty"),
        (["", "blue"], "prompt: must not be empty"),
        (["the sea is ", "blue"], "prompt: must not end with a space"),
        (["the sea is", "blue", "-s", "Franc"], "subject: 'Franc' does not occur in the prompt"),
        (["the " * 130 + "sea is", "blue"], "prompt: prompt and target have 135 tokens, the model"),
        (["the sea is", "blue", "--variant", "a " * 130 + "sea"], "variants: prompt and target"),
        (["the sea is", "blue", "--near", "a " * 130 + "sea"], "locality: prompt and target have"),
    ],
)
def test_a_bad_fact_is_refused_with_the_reason_and_changes_nothing(
    empty: Store, words: list[str], message: str
) -> None:
    before = content(empty.path)
    result = run("edit", *words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert f"error: {message}" in result.stderr
    assert content(empty.path) == before


def test_an_edit_that_does_not_take_is_saved_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path, calibration: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ["--set", "max_steps=1", "--set", "confidence=1"]
    run("init", str(model_folder), "--calibration", str(calibration), *settings)
    result = run("edit", *FRANCE_IS_ROME, "--json")
    assert result.exit_code == 1
    assert json_of(result)["failed"] == [FRANCE.id]
    assert result.stderr.startswith("warning: the edit is saved, but the model does not answer ")
    assert "hint: `editcli check --per-fact`" in result.stderr
    assert in_force(Store.open(tmp_path / ".editcli")) == (FRANCE.id,)


def test_plain_is_recorded_with_the_facts_and_stays_with_them(empty: Store) -> None:
    def plain(fact_id: str) -> bool:
        return fact_id in Session.open(Invocation(device="cpu"), empty).state().payload.plain

    file = str(save_facts(Path("facts.jsonl"), [JAPAN, PERU]))
    assert run("edit", *FRANCE_IS_ROME, "--plain").exit_code == 0
    assert run("apply", file).exit_code == 0
    assert [plain(fact.id) for fact in (FRANCE, JAPAN, PERU)] == [True, False, False]
    assert json_of(run("show", "v0002", "--json"))["extra"]["plain"] is True
    assert "plain" not in json_of(run("show", "v0003", "--json"))["extra"]
    assert run("undo", JAPAN.id, PERU.id, FRANCE.id).exit_code == 0
    assert run("apply", file, "--plain").exit_code == 0
    assert run("edit", *FRANCE_IS_ROME).exit_code == 0
    assert [plain(fact.id) for fact in (FRANCE, JAPAN, PERU)] == [False, True, True]
    assert run("ask", JAPAN.prompt, "-q").stdout == f"{JAPAN.target}\n"
    assert empty.verify() == []
    assert run("checkout", "v0002").exit_code == 0
    assert plain(FRANCE.id)


def test_what_is_told_later_is_a_new_version_of_the_fact(empty: Store) -> None:
    """The hint to name a subject can be followed to the letter."""
    bare = run("edit", FRANCE.prompt, FRANCE.target)
    assert "`--subject`" in bare.stderr
    named = json_of(run("edit", FRANCE.prompt, FRANCE.target, "--subject", "France", "--json"))
    assert (named["version"], named["applied"], named["superseded"]) == ("v0003", 1, 1)
    told = run("edit", *FRANCE_IS_ROME, "--rephrase", "France has the capital", "--source", "atlas")
    assert "what is told of the fact was kept" in told.stdout
    [fact] = edits_of(empty).in_force()
    assert (fact.subject, fact.source, fact.rephrases) == (
        *("France", "atlas"),
        ("France has the capital",),
    )
    assert json_of(run("edit", *FRANCE_IS_ROME, "--json"))["version"] == "v0004"
    assert empty.verify() == []
