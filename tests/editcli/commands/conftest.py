"""Stores of other methods than the default, made once and copied for a test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_edits import FACTS, SETTINGS
from tiny_stores import run, save_facts

from editcli.store.store import Store


@pytest.fixture(scope="session")
def _made_by_method(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, calibration: Path
) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(method: str) -> Path:
        if method not in made:
            path = tmp_path_factory.mktemp(method) / "store"
            settings = [f"--set={key}={value}" for key, value in SETTINGS[method].items()]
            options = ["--method", method, "--calibration", str(calibration), *settings]
            facts = save_facts(path.parent / "facts.jsonl", FACTS)
            for words in (["init", str(model_folder), *options], ["apply", str(facts)]):
                result = run(*words, "--store", str(path))
                assert result.exit_code == 0, result.stderr
            made[method] = path
        return made[method]

    return make


@pytest.fixture
def edited_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _made_by_method: Callable[[str], Path]
) -> Callable[[str], Store]:
    """`edited_by(method)`: a store of that method whose v0002 holds the facts of `tiny_edits`,
    found from the current folder."""
    monkeypatch.chdir(tmp_path)

    def copied(method: str) -> Store:
        return Store.open(Path(shutil.copytree(_made_by_method(method), tmp_path / ".editcli")))

    return copied
