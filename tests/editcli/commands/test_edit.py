"""`editcli edit`: one fact, one version, or nothing at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_edits import FACTS, FRANCE, FRANCE_AGAIN
from tiny_stores import content, run, said, save_model

from editcli.store.ledger import Closed, Ledger
from editcli.store.store import Store

KEYS = {
    *("schema", "version", "parent", "applied", "refused", "superseded", "failed", "iterations"),
    *("seconds", "seconds_per_edit", "peak_memory_bytes", "unchanged", "left", "fact"),
}
FRANCE_IS_ROME = (FRANCE.prompt, FRANCE.target, "--subject", "France")
FRANCE_IS_LIMA = (FRANCE.prompt, FRANCE_AGAIN.target, "--subject", "France")


def test_an_edit_is_a_version_and_the_model_says_so(empty: Store) -> None:
    result = run("edit", *FRANCE_IS_ROME, "--author", "ann", "-m", "a try", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    record = said(result)
    assert set(record) == KEYS
    assert (record["version"], record["parent"]) == ("v0002", "v0001")
    counts = ("applied", "refused", "superseded", "unchanged", "left", "failed")
    assert [record[key] for key in counts] == [1, 0, 0, 0, 0, []]
    assert record["fact"] == FRANCE.id
    assert record["iterations"] > 0
    head = empty.head()
    assert (head.operation, head.author, head.message) == ("edit", "ann", "a try")
    assert head.facts == head.added == (FRANCE.id,)
    assert run("ask", FRANCE.prompt).stdout == "Rome\n"
    assert run("ask", FRANCE.prompt, "--version", "1").stdout != "Rome\n"


def test_an_edit_tells_people_the_version_and_the_fact(empty: Store) -> None:
    result = run("edit", *FRANCE_IS_ROME)
    first, second = result.stdout.splitlines()
    assert first.startswith("v0002: edited in ")
    assert second == f"fact {FRANCE.id}"
    assert result.stderr == ""


def test_quiet_prints_the_version_alone(empty: Store) -> None:
    result = run("edit", FRANCE.prompt, FRANCE.target, "-q")
    assert (result.stdout, result.stderr) == ("v0002\n", "")


def test_an_edit_without_a_subject_is_told_what_it_misses(empty: Store) -> None:
    result = run("edit", FRANCE.prompt, FRANCE.target)
    assert result.exit_code == 0
    assert result.stderr.startswith("hint: name it with `--subject`")


def test_the_same_edit_again_changes_nothing_and_says_so(edited: Store) -> None:
    before = content(edited.path)
    result = run("edit", *FRANCE_IS_ROME)
    assert result.exit_code == 0
    assert result.stdout.startswith("v0002: the model is already edited to say so, nothing was")
    record = said(run("edit", *FRANCE_IS_ROME, "--json"))
    assert (record["version"], record["applied"], record["unchanged"]) == ("v0002", 0, 1)
    assert record["fact"] == FRANCE.id
    assert content(edited.path) == before


def test_a_new_target_supersedes_the_older_edit(edited: Store) -> None:
    result = run("edit", *FRANCE_IS_LIMA)
    assert result.exit_code == 0
    assert result.stdout.startswith("v0003: edited in place of an older edit in ")
    head = edited.head()
    assert (head.added, head.superseded) == ((FRANCE_AGAIN.id,), (FRANCE.id,))
    assert Ledger.of(edited).closed == {FRANCE.id: Closed("superseded", FRANCE_AGAIN.id)}
    assert run("ask", FRANCE.prompt).stdout == "Lima\n"
    assert run("ask", FRANCE.prompt, "--version", "v0002").stdout == "Rome\n"


def test_a_version_shares_the_shards_it_did_not_touch(edited: Store) -> None:
    run("edit", *FRANCE_IS_LIMA)
    before, after = edited.version("v0002").blobs, edited.head().blobs
    shards = [name for name in before if name.startswith("shard-")]
    assert len(shards) == 2
    for name in (*shards, "router.safetensors"):
        assert after[name] == before[name]
    assert set(after) - set(before) == {"shard-0002.safetensors", "keys-0002.safetensors"}


def test_all_that_was_said_about_the_fact_is_kept(empty: Store) -> None:
    words = ["--rephrase", "France has the capital", "--variant", "what is France ?"]
    probes = ["--near", "the river of France is", "--far", "the sea is"]
    result = run(
        "edit", *FRANCE_IS_ROME, *words, *probes, "--source", "a book", "--author", "ann", "--json"
    )
    kept = said(run("show", said(result)["fact"], "--json"))["fact"]
    assert kept == {
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
    assert said(result)["failed"] == [FRANCE.id]
    assert result.stderr.startswith(
        "warning: the edit is saved, but the model does not answer as it says"
    )
    assert "hint: `editcli check --per-fact`" in result.stderr
    assert Store.open(tmp_path / ".editcli").head().facts == (FRANCE.id,)


# --- what keeps any command from working ----------------------------------------------------

WORK = [["edit", *FRANCE_IS_LIMA], ["apply", "facts.jsonl"], ["check"], ["ask", FRANCE.prompt]]
each_command = pytest.mark.parametrize("words", WORK, ids=lambda words: words[0])


@each_command
def test_without_a_store_the_hint_is_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("facts.jsonl").write_text('{"prompt": "a", "target": "b"}\n')
    result = run(*words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: no store in ")
    assert "\nhint: `editcli init` makes one" in result.stderr


@each_command
def test_another_base_is_refused_with_both_fingerprints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calibration: Path, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(Path("model"))
    run("init", "model", "--calibration", str(calibration), "--set", "max_steps=1")
    run("edit", FACTS[1].prompt, FACTS[1].target)
    Path("facts.jsonl").write_text('{"prompt": "a", "target": "b"}\n')
    store = Store.open(tmp_path / ".editcli")
    before = content(store.path)
    save_model(Path("model"), "qwen2")
    result = run(*words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"the store was made on {store.config.fingerprint[:16]}" in result.stderr
    assert "the base model has the fingerprint " in result.stderr
    assert "\nhint: use the model and `--dtype`" in result.stderr
    assert content(store.path) == before


@pytest.mark.parametrize("words", WORK[:2], ids=lambda words: words[0])
def test_a_locked_store_says_by_whom(edited: Store, words: list[str]) -> None:
    Path("facts.jsonl").write_text('{"prompt": "a", "target": "b"}\n')
    with edited.writing("editcli apply monday.jsonl"):
        result = run(*words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: store is locked by pid " in result.stderr
    assert "(editcli apply monday.jsonl) since " in result.stderr
    assert edited.head().id == "v0002"


@pytest.mark.parametrize("words", WORK[2:], ids=lambda words: words[0])
def test_reading_does_not_wait_for_a_writer_and_writes_nothing(
    edited: Store, words: list[str]
) -> None:
    before = content(edited.path)
    with edited.writing("editcli apply monday.jsonl"):
        assert run(*words).exit_code == 0
    assert content(edited.path) == before


@each_command
def test_ctrl_c_while_the_model_loads_exits_with_130(
    edited: Store, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("editcli.operations.session.load_base", interrupted)
    Path("facts.jsonl").write_text('{"prompt": "a", "target": "b"}\n')
    before = content(edited.path)
    result = run(*words)
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == "error: interrupted\n"
    assert content(edited.path) == before
