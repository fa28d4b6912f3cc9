"""`editcli verify`: all that is not as it was written is listed, the base included."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_stores import PARIS, blobs, json_of, run, save_model

from editcli.store.store import Store


@pytest.fixture(autouse=True)
def _calibrated_on_a_small_file_in_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calibration: Path
) -> None:
    monkeypatch.setenv("EDITCLI_CALIBRATION", str(calibration))
    monkeypatch.chdir(tmp_path)


def store_on(folder: Path) -> Store:
    """A store on the model in `folder`, found from the current folder."""
    result = run("init", str(folder), "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    return Store.open(Path(".editcli").absolute())


def test_a_fresh_store_is_sound(model_folder: Path) -> None:
    store_on(model_folder)
    result = run("verify", "--device", "cpu")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "sound: 1 version, the base is the one it was made on\n"


def test_verify_finds_another_base(model_folder: Path) -> None:
    shutil.copytree(model_folder, "mine")
    store_on(Path("mine"))
    shutil.rmtree("mine")
    save_model(Path("mine"), "qwen3")
    result = run("verify", "--device", "cpu")
    assert result.exit_code == 1
    assert result.stdout.startswith("base model: the base model has the fingerprint ")
    assert "hint: " in result.stderr
    skipped = run("verify", "--no-base")
    assert skipped.exit_code == 0
    assert "not compared" in skipped.stdout


def test_verify_lists_a_base_that_is_gone(model_folder: Path) -> None:
    shutil.copytree(model_folder, "mine")
    store_on(Path("mine"))
    shutil.rmtree("mine")
    result = run("verify", "--json")
    assert result.exit_code == 1
    record = json_of(result)
    assert set(record) == {"schema", "sound", "base_checked", "problems"}
    assert (record["sound"], record["base_checked"]) == (False, True)
    assert [problem["what"] for problem in record["problems"]] == ["base model"]


def test_verify_lists_all_damage(model_folder: Path) -> None:
    store = store_on(model_folder)
    with store.writing() as change:
        version = change.publish("edit", blobs([PARIS]), [PARIS.id], added=[PARIS.id])
    for name in ("facts.jsonl", "edits.json"):
        store.blob_path(version, name).write_bytes(b"changed")
    result = run("verify", "--no-base")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 2
    assert all("is damaged" in line for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("content", "facts", "detail"),
    [
        (blobs([PARIS]), [], "lists 0 facts; in force: 1"),
        (blobs([]), [PARIS.id], "lists 1 fact; in force: 0"),
        ({"facts.jsonl": b""}, [], "v0002 has no edits.json"),
    ],
)
def test_verify_compares_the_facts_with_the_manifest(
    model_folder: Path, content: dict[str, bytes], facts: list[str], detail: str
) -> None:
    store = store_on(model_folder)
    with store.writing() as change:
        change.publish("edit", content, facts)
    result = run("verify", "--no-base")
    assert result.exit_code == 1
    assert result.stdout == f"versions/v0002.json: {detail}\n"


def test_a_flag_that_makes_no_sense_says_nothing_about_the_store(model_folder: Path) -> None:
    store_on(model_folder)
    assert run("verify", "--dtype", "int8").exit_code == 2
