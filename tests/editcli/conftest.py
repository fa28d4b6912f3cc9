"""Stores on a tiny model, made by `editcli init` and `editcli apply` once and copied for a test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_edits import FACTS, FAST
from tiny_models import CHAT, build_tokenizer
from tiny_stores import run, save_calibration, save_facts, save_model

from editcli.store.store import Store


@pytest.fixture(scope="session")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file of phrasings."""
    return save_calibration(tmp_path_factory.mktemp("calibration") / "phrasings.jsonl")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder. Leave it as you found it."""
    return save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def _made_empty(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, calibration: Path
) -> Path:
    path = tmp_path_factory.mktemp("stores") / "empty"
    settings = [f"--set={key}={value}" for key, value in {**FAST, "shard_size": 2}.items()]
    place = ["--store", str(path), "--calibration", str(calibration)]
    result = run("init", str(model_folder), *place, *settings)
    assert result.exit_code == 0, result.stderr
    return path


@pytest.fixture(scope="session")
def _made_edited(tmp_path_factory: pytest.TempPathFactory, _made_empty: Path) -> Path:
    path = shutil.copytree(_made_empty, tmp_path_factory.mktemp("stores") / "edited")
    facts = save_facts(path.parent / "facts.jsonl", FACTS)
    result = run("apply", str(facts), "--store", str(path), "-m", "the first batch")
    assert result.exit_code == 0, result.stderr
    return path


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _made_empty: Path) -> Store:
    """A store without edits, found from the current folder."""
    monkeypatch.chdir(tmp_path)
    return Store.open(Path(shutil.copytree(_made_empty, tmp_path / ".editcli")))


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _made_edited: Path) -> Store:
    """A store whose v0002 holds the four facts of `tiny_edits`, in two shards."""
    monkeypatch.chdir(tmp_path)
    return Store.open(Path(shutil.copytree(_made_edited, tmp_path / ".editcli")))


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """The folder of the tiny model, with a tokenizer that has a chat template."""
    folder = shutil.copytree(model_folder, tmp_path_factory.mktemp("models") / "chats")
    build_tokenizer(chat_template=CHAT).save_pretrained(folder)
    return folder


@pytest.fixture
def chatting(edited: Store, monkeypatch: pytest.MonkeyPatch, chat_model: Path) -> Store:
    """The store `edited`, on the same model with a tokenizer that has a chat template."""
    monkeypatch.setenv("EDITCLI_MODEL", str(chat_model))
    return edited
