"""`editcli export`, and loading what it wrote, here and where there is no editcli."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_edits import FACTS, FRANCE
from tiny_stores import json_of, run

import editcli
import editors
from editcli.store.store import Store

PROMPTS = [*(fact.prompt for fact in FACTS), "the sea of Spain is", "who lives in Kenya ?"]
TOKENS = 4

# What a program does that has torch and transformers, and nothing of editcli's or for it.
ELSEWHERE = """
import json, sys

sys.modules.update(dict.fromkeys(("editcli", "editors", "pydantic")))  # none can be imported
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, tokens, *prompts = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(
    folder, padding_side="left", trust_remote_code=True
)
options = {"max_new_tokens": int(tokens), "do_sample": False}
pad = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id

def answers(rows, **more):
    batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
    out = model.generate(**batch, **options, pad_token_id=pad, **more)
    return [tokenizer.decode(row[batch.input_ids.shape[1]:], skip_special_tokens=True).strip()
            for row in out]

rows = [tokenizer(prompt)["input_ids"] for prompt in prompts]
print(json.dumps({
    "single": [answers([row])[0] for row in rows],
    "uncached": [answers([row], use_cache=False)[0] for row in rows],
    "together": answers(rows),
    "why": [model.edits.explain(prompt).why for prompt in prompts],
    "loaded": [n for n, module in sys.modules.items() if n.startswith("editors") and module],
}))
"""


def exported(*options: str) -> Path:
    result = run("export", "HEAD", "out", *options)
    assert result.exit_code == 0, result.stderr
    return Path("out")


def told(*options: str) -> list[str]:
    tokens = ["--max-new-tokens", str(TOKENS)]
    return [
        str(json_of(run("ask", prompt, *tokens, "--json", *options))["answer"])
        for prompt in PROMPTS
    ]


def generated(loaded: editors.exports.loaded_model.LoadedModel) -> list[str]:
    tokenizer = loaded.tokenizer
    rows = [tokenizer(prompt, return_tensors="pt") for prompt in PROMPTS]
    outputs = [
        loaded.model.generate(**row, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0)
        for row in rows
    ]
    return [
        tokenizer.decode(out[0, row.input_ids.shape[1] :], skip_special_tokens=True).strip()
        for row, out in zip(rows, outputs, strict=True)
    ]


def test_a_store_is_loaded_in_python(edited: Store) -> None:
    with editcli.load(edited.path) as loaded:
        assert generated(loaded) == told()
        assert FRANCE.id in loaded.explain(FRANCE.prompt).why
        assert loaded.explain(FRANCE.prompt).record["fact"] == FRANCE.id
    assert generated(loaded) == told("--base")
    with editcli.load(".", version="v0001") as loaded:
        assert generated(loaded) == told("--base")


def test_an_adapter_answers_as_the_version_does(edited: Store) -> None:
    folder = exported()
    for loaded in (editors.load(folder), editcli.load(folder)):
        assert generated(loaded) == told()
        loaded.close()
    card = (folder / "README.md").read_text()
    assert FRANCE.target in card
    assert "library_name: editcli" in card


def test_a_model_with_remote_code_answers_so_without_editcli(edited: Store) -> None:
    folder = exported("--as", "remote-code")
    environment = {**os.environ, "HF_MODULES_CACHE": str(Path("modules").resolve())}
    words = [sys.executable, "-c", ELSEWHERE, str(folder), str(TOKENS), *PROMPTS]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    expected = told()
    assert found["single"] == expected
    assert found["uncached"] == expected
    assert found["together"] == expected
    assert FRANCE.id in found["why"][0]
    assert found["loaded"]
    assert all(name.startswith("editors_") for name in found["loaded"])


def test_a_model_with_remote_code_is_not_taken_for_the_base(edited: Store) -> None:
    from transformers import AutoModelForCausalLM

    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoModelForCausalLM.from_pretrained(
            exported("--as", "remote-code"), trust_remote_code=False
        )


def test_the_weights_are_linked(edited: Store, model_folder: Path) -> None:
    [weights] = exported("--as", "remote-code").glob("*.safetensors")
    assert weights.samefile(model_folder / weights.name)


def test_merged_weights_come_with_what_they_cost(edited: Store) -> None:
    result = run("export", "HEAD", "out", "--as", "merged")
    assert result.exit_code == 0, result.stderr
    for text in (result.stderr, Path("out/README.md").read_text()):
        assert "routed" in text
        assert "merged" in text
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained("out")


def test_facts_may_be_left_out_of_the_card(edited: Store) -> None:
    card = (exported("--private-facts") / "README.md").read_text()
    assert "4 edited facts" in card
    assert FRANCE.prompt not in card


def test_a_folder_that_exists_is_refused(edited: Store) -> None:
    folder = exported()
    before = sorted(folder.rglob("*"))
    result = run("export", "HEAD", "out")
    assert result.exit_code == 1
    assert "exists" in result.stderr
    assert sorted(folder.rglob("*")) == before


def test_another_base_is_refused(edited: Store, tmp_path: Path) -> None:
    from tiny_stores import save_model

    other = save_model(tmp_path / "other", "gpt2")
    with pytest.raises(editors.StateMismatch):
        editors.load(exported(), base=other)


def test_a_folder_without_edits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(editors.EditorError, match="not an export"):
        editors.load(tmp_path)


def test_nothing_is_left_of_an_export_that_fails(edited: Store) -> None:
    Path("plain").write_text("a file")
    result = run("export", "HEAD", "plain/out")
    assert result.exit_code == 1
    assert sorted(path.name for path in Path().iterdir()) == [".editcli", "plain"]
