"""`editcli export --as lora`, loaded by PEFT alone over the plain base."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tiny_adapters import require_adapters_answer_as_ask
from tiny_edits import FACTS, FAST, FRANCE
from tiny_stores import run, save_facts, save_model

import editcli
from editcli.files.packaged import datasets_dir

LOW_RANK = {"memory": "low-rank", "memory_rank": 4, "learning_rate": 8.0, "shard_size": 1}
PROMPTS = (*(fact.prompt for fact in FACTS), "the sea of Spain is", "who lives in Kenya ?")
TOKENS = 4

needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")


def done(*words: str) -> str:
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    return result.stderr


@pytest.fixture
def base(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    calibration: Path,
) -> Path:
    """The folder of a tiny model. The store of the current folder is on it, and its v0002 holds the
    four facts of `tiny_edits`, each in a shard of low rank."""
    monkeypatch.chdir(tmp_path)
    folder = save_model(tmp_path / "model", getattr(request, "param", "llama"))
    settings = [f"--set={key}={value}" for key, value in {**FAST, **LOW_RANK}.items()]
    done("init", str(folder), "--calibration", str(calibration), *settings)
    done("apply", str(save_facts(tmp_path / "facts.jsonl", FACTS)))
    return folder


def loaded(folder: Path) -> tuple[Any, Any]:
    """The plain base in `folder`, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    return model, AutoTokenizer.from_pretrained(folder)


@needs_peft
@pytest.mark.parametrize("base", ["llama", "gpt2"], indirect=True)
def test_the_adapter_of_the_claiming_shard_answers_as_the_version_does(base: Path) -> None:
    done("export", "HEAD", "out", "--as", "lora")
    require_adapters_answer_as_ask(*loaded(base), PROMPTS, TOKENS)


@needs_peft
def test_on_atlas_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    atlas = datasets_dir() / "atlas"
    if not (atlas / "model" / "config.json").is_file():
        pytest.skip("atlas is not there")
    done("init", "atlas", "--set", "memory=low-rank")
    done("apply", str(atlas / "edits.jsonl"), "--limit", "5")
    done("export", "HEAD", "out", "--as", "lora")
    with (atlas / "edits.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(next(lines)) for _ in range(7)]
    prompts = [text for row in rows for text in (row["prompt"], *row["rephrases"][:2])]
    require_adapters_answer_as_ask(*loaded(atlas / "model"), prompts, 12)


def test_the_folder_is_loaded_as_an_adapter_of_editcli_is(base: Path) -> None:
    done("export", "HEAD", "out", "--as", "lora")
    names = json.loads(Path("out/adapters.json").read_text())
    with editcli.load("out") as loaded:
        for fact in FACTS:
            shard = loaded.explain(fact.prompt).record["shard"]
            assert names[f"shard-{shard:04d}"] == [fact.id]
    card = Path("out/README.md").read_text()
    assert "library_name: peft" in card
    assert FRANCE.target in card


def test_a_fact_that_was_undone_has_no_adapter(base: Path) -> None:
    done("undo", FRANCE.id)
    done("export", "HEAD", "out", "--as", "lora")
    names = json.loads(Path("out/adapters.json").read_text())
    assert sorted(names) == sorted(path.name for path in Path("out/adapters").iterdir())
    assert [fact for facts in names.values() for fact in facts] == [f.id for f in FACTS[1:]]


def test_a_store_with_masks_is_refused_with_how_to_make_one_without(edited: object) -> None:
    result = run("export", "HEAD", "out", "--as", "lora")
    assert result.exit_code == 1
    assert "memory=masked" in result.stderr
    assert "`editcli init MODEL --set memory=low-rank`" in result.stderr.replace("\n", " ")
    assert not Path("out").exists()
