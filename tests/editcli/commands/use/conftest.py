"""A store whose model talks for minutes, unless it is stopped; and stores to be put in front of
engines."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_models import build, build_tokenizer
from tiny_servers import TALK
from tiny_stores import json_of, run, save_facts
from tiny_upstreams import EDITED, TEMPLATE, Recorder, answering, fronting

from editcli.files.packaged import datasets_dir
from editcli.store.store import Store


@pytest.fixture
def talkative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calibration: Path) -> Store:
    """A store, found from the current folder, on a model with a long context."""
    monkeypatch.chdir(tmp_path)
    model = build("llama")
    model.config.max_position_embeddings = 1 << 15
    model.save_pretrained("model")
    build_tokenizer().save_pretrained("model")
    made = run("init", "model", "--calibration", str(calibration))
    assert made.exit_code == 0, made.stderr
    begun = json_of(run("ask", TALK, "--json", "--max-new-tokens", "100"))["answer"]
    assert len(begun.split()) == 100, "this question has to be answered at length"
    return Store.open(tmp_path / ".editcli")


@pytest.fixture(scope="session")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with atlas, whose tokenizer has a chat template."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("bases") / "atlas"
    shutil.copytree(datasets_dir() / "atlas" / "model", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, atlas: Path) -> Callable[..., Path]:
    """Stores on atlas with the three facts, made once for the options of `init`."""
    stores: dict[tuple[str, ...], Path] = {}

    def make(*options: str) -> Path:
        if options not in stores:
            path = tmp_path_factory.mktemp("stores") / ".editcli"
            facts = save_facts(path.parent / "facts.jsonl", EDITED)
            place = ["--store", str(path), "--device", "cpu"]
            for words in (["init", str(atlas), *options], ["apply", str(facts), "--plain"]):
                result = run(*words, *place)
                assert result.exit_code == 0, result.stderr
            stores[options] = path
        return stores[options]

    return make


@pytest.fixture
def store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Callable[..., Path]
) -> Callable[..., Store]:
    """A copy of such a store, found from the current folder."""
    monkeypatch.chdir(tmp_path)

    def copied(*options: str) -> Store:
        return Store.open(Path(shutil.copytree(made(*options), tmp_path / ".editcli")))

    return copied


@pytest.fixture
def in_context(store: Callable[..., Store]) -> Store:
    return store("--method", "in-context", "--scope", "sentence")


@pytest.fixture
def low_rank(store: Callable[..., Store]) -> Store:
    settings = ("memory=low-rank", "memory_rank=64", "shard_size=1")
    return store("--scope", "sentence", *(f"--set={setting}" for setting in settings))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def recorded(in_context: Store, recorder: Recorder) -> Iterator[tuple[Any, str]]:
    """A client of the store in front of `recorder`, and the name of the store."""
    with answering(recorder) as url, fronting(in_context, url) as front, front.client() as client:
        yield client, front.name
