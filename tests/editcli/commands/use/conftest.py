"""A store whose model talks for minutes, unless it is stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import build, build_tokenizer
from tiny_servers import TALK
from tiny_stores import json_of, run

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
