"""`editcli verify`: all that is not as it was written is listed, the base included."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from tiny_stores import PARIS, json_of, run, save_model, shard

from editcli.store.changes import Changes, NewBlob
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
    assert result.stdout == "sound: 1 version; the base is the one it was made on\n"


def test_verify_finds_another_base(model_folder: Path) -> None:
    shutil.copytree(model_folder, "mine")
    store_on(Path("mine"))
    shutil.rmtree("mine")
    save_model(Path("mine"), "qwen3")
    result = run("verify", "--device", "cpu")
    assert result.exit_code == 1
    assert "base model: model_type is qwen3, and llama is recorded\n" in result.stdout
    assert "hint: " in result.stderr
    skipped = run("verify", "--no-base")
    assert skipped.exit_code == 0
    assert "not looked at" in skipped.stdout


def test_verify_lists_a_base_that_is_gone(model_folder: Path) -> None:
    shutil.copytree(model_folder, "mine")
    store_on(Path("mine"))
    shutil.rmtree("mine")
    result = run("verify", "--json")
    assert result.exit_code == 1
    record = json_of(result)
    assert set(record) == {"schema", "sound", "base_checked", "tip", "versions", "problems"}
    assert (record["sound"], record["base_checked"]) == (False, True)
    assert [problem["what"] for problem in record["problems"]] == ["base model"]


def test_verify_lists_all_damage(model_folder: Path) -> None:
    store = store_on(model_folder)
    with store.writing() as change:
        version = change.publish("edit", Changes([PARIS], blobs=shard(0, [PARIS])))
    for name, blob in store.blobs(version).items():
        store.blob_path(name, blob).write_bytes(b"changed")
    result = run("verify", "--no-base")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == len(store.blobs(version)) >= 2
    assert all("is damaged" in line for line in result.stdout.splitlines())


def test_verify_reads_the_edits_of_every_name(model_folder: Path) -> None:
    store = store_on(model_folder)
    with store.writing() as change:
        change.publish("edit", Changes(blobs={"edits.json": NewBlob(b"{}")}))
    result = run("verify", "--no-base")
    assert result.exit_code == 1
    assert result.stdout.startswith("HEAD: v0002: the saved edits cannot be read")


def test_verify_names_the_file_of_the_base_that_changed(model_folder: Path) -> None:
    shutil.copytree(model_folder, "mine")
    store_on(Path("mine"))
    config = json.loads(Path("mine/config.json").read_text())
    Path("mine/config.json").write_text(json.dumps({**config, "use_cache": False}))
    assert run("verify", "--device", "cpu").exit_code == 0  # it changes no answer
    path = Path("mine/tokenizer.json")
    path.write_bytes(path.read_bytes().replace(b"France", b"Frence"))
    result = run("verify", "--device", "cpu")
    assert result.exit_code == 1
    assert result.stdout.startswith("base model: tokenizer.json has the SHA-256 ")
    weights = Path("mine/model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert "base model: model.safetensors has" in run("verify", "--device", "cpu").stdout


def test_a_tip_that_was_kept_finds_a_history_that_was_rewritten(model_folder: Path) -> None:
    store = store_on(model_folder)
    tip = json_of(run("verify", "--no-base", "--json"))["tip"]
    assert run("verify", "--no-base", "--expect", tip).exit_code == 0
    assert run("verify", "--no-base", "--expect", tip[:12]).exit_code == 0
    assert run("verify", "--no-base", "--expect", tip[:3]).exit_code == 1
    with store.writing() as change:
        change.publish("edit", Changes([PARIS]))
    result = run("verify", "--no-base", "--expect", tip)
    assert (result.exit_code, result.stdout[:20]) == (1, "history: its tip is ")


def test_a_changed_blob_is_found_though_its_digest_is_remembered(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDITCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("editcli.store.files.digests.SETTLED_NS", -1)
    store = store_on(model_folder)
    head = store.head()
    for words in ((), (), ("--full",)):
        assert run("verify", "--no-base", *words).exit_code == 0
    path = store.blob_path("edits.json", store.blobs(head)["edits.json"])
    data, times = path.read_bytes(), path.stat()
    path.write_bytes(data.replace(b"e", b"E", 1))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if it had not changed
    assert "is damaged" in run("verify", "--no-base").stdout


def test_a_flag_that_makes_no_sense_says_nothing_about_the_store(model_folder: Path) -> None:
    store_on(model_folder)
    assert run("verify", "--dtype", "int8").exit_code == 2
