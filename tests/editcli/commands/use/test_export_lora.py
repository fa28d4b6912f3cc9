"""`editcli export --as lora`, loaded by PEFT alone over the plain base."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
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


def told(prompts: Sequence[str], tokens: int = TOKENS) -> list[dict[str, Any]]:
    lines = "\n".join(prompts)
    result = run("ask", "-", "--json", "--max-new-tokens", str(tokens), stdin=lines)
    return [json.loads(line) for line in result.stdout.splitlines()]


def require_answers_of_ask(base: Path, prompts: Sequence[str], tokens: int = TOKENS) -> None:
    """Of `out`, PEFT loads adapters over the plain base. With that of the shard that `ask` names,
    or with none where it names none, it generates what `ask` answers."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(base)
    claimed = 0
    for prompt, answer in zip(prompts, told(prompts, tokens), strict=True):
        inputs = tokenizer(prompt, return_tensors="pt")
        options = {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
        if answer["shard"] is None:
            output = model.generate(**inputs, **options)
        else:
            name = f"shard-{answer['shard']:04d}"
            adapted = PeftModel.from_pretrained(model, f"out/adapters/{name}")
            output = adapted.generate(**inputs, **options)
            model = adapted.unload()
            claimed += 1
        text = tokenizer.decode(output[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        assert text.strip() == answer["answer"], prompt
    assert 0 < claimed < len(prompts), "some prompts are claimed and some are not"


@needs_peft
@pytest.mark.parametrize("base", ["llama", "gpt2"], indirect=True)
def test_the_adapter_of_the_claiming_shard_answers_as_the_version_does(base: Path) -> None:
    done("export", "HEAD", "out", "--as", "lora")
    require_answers_of_ask(base, PROMPTS)


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
    require_answers_of_ask(atlas / "model", prompts, 12)


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
