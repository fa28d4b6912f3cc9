"""The same on a GPU: edits, routing, recorded states and rankings."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pytest
import torch
from tiny_edits import edit

from editcli.files.packaged import datasets_dir
from editors import METHODS, Fact
from editors.methods.applying import NO_CACHE, Limits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

COUNT = 6


def rows(name: str, count: int) -> list[dict[str, Any]]:
    with (datasets_dir() / "atlas" / name).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, count)]


def method_on(device: str) -> Any:
    from editcli.models.loading import load_base

    base = load_base("atlas", device=device)
    return METHODS.load("wise").build(base, {"shard_size": 4}, 0)


@pytest.fixture(scope="module")
def methods() -> list[Any]:
    """On the CPU, on the GPU, and over both."""
    from accelerate import dispatch_model

    both = method_on("cpu")
    blocks = both.base.architecture.blocks
    lower = {block.path: "cpu" for block in blocks[: len(blocks) // 2]}
    upper = {block.path: "cuda:0" for block in blocks[len(blocks) // 2 :]}
    rest = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
    others = dict.fromkeys(rest, "cuda:0")
    dispatch_model(both.base.model, {**lower, **upper, **others}, main_device="cpu")
    return [method_on("cpu"), method_on("cuda"), both]


def calibrated(method: Any) -> Any:
    from editors.scope.corpus import Corpus
    from editors.scope.phrasings import Phrasings

    with (datasets_dir() / "calibration.jsonl").open(encoding="utf-8") as lines:
        groups = [Phrasings.from_dict(json.loads(line)) for line in lines]
    return method.start(Corpus(groups), NO_CACHE)


def test_edits_are_answered_and_routed_as_on_the_cpu(methods: list[Any]) -> None:
    from editors.inference.edited_model import EditedModel
    from editors.inference.generation import answers

    facts = [Fact.from_dict(row) for row in rows("edits.jsonl", COUNT)]
    prompts = [fact.prompt for fact in facts] + [fact.rephrases[0] for fact in facts]
    routes = []
    for method in methods:
        unedited = EditedModel.unedited(method.base)
        before = answers(unedited, prompts, 12)
        state = edit(method, facts, calibrated(method)).state
        with method.attach(state) as model:
            edited = answers(model, prompts, 12)
        assert [answer.text for answer in edited] == 2 * [fact.target for fact in facts]
        assert answers(unedited, prompts, 12) == before
        decisions = [answer.decision for answer in edited]
        assert None not in decisions
        routes.append([(d.memory, d.fact) for d in decisions if d])
    assert routes[0] == routes[1] == routes[2]


def test_routing_works_wherever_the_blocks_are(methods: list[Any]) -> None:
    for method in methods:
        method.self_test()


@pytest.mark.parametrize("memory_bytes", [None, 0], ids=["in memory", "in files"])
def test_states_that_leave_the_gpu_change_no_edit(
    methods: list[Any], monkeypatch: pytest.MonkeyPatch, memory_bytes: int | None
) -> None:
    method = methods[1]
    facts = [Fact.from_dict(row) for row in rows("edits.jsonl", COUNT)]
    start = calibrated(method)
    near = edit(method, facts, start).state
    monkeypatch.setattr("editors.methods.training.state_offload.ON_DEVICE_BYTES", 0)
    far = edit(method, facts, start, limits=Limits(memory_bytes=memory_bytes)).state
    assert method.save(far) == method.save(near)


def test_heads_do_what_they_do_on_the_cpu(methods: list[Any]) -> None:
    from editors.heads.path_patching import path_effects
    from editors.inference.edited_model import EditedModel
    from editors.model.tokenization import Row, encode_prompts

    conflicts = [row for row in rows("conflicts.jsonl", 300) if row["kind"] == "substitution"][:6]
    effects = []
    for method in methods:
        base = method.base
        original, corrupted = (
            base.batch([Row.of_prompt(ids) for ids in encode_prompts(base.tokenizer, prompts)])
            for prompts in (
                [f"{row['context']} {row['question']}" for row in conflicts],
                [row["question"] for row in conflicts],
            )
        )
        wanted = encode_prompts(base.tokenizer, [row["context_answer"] for row in conflicts])
        tokens = torch.tensor([[ids[1]] for ids in wanted])  # [rows, 1]
        model = EditedModel.unedited(base)
        effects.append(path_effects(model, original, corrupted, tokens))
    for other in effects[1:]:
        torch.testing.assert_close(other, effects[0], atol=1e-3, rtol=1e-3)
