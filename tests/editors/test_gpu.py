"""The same on a GPU: edits, routing, recorded states and rankings."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pytest
import torch
from tiny_edits import edit

from editcli.files.packaged import datasets_dir
from editors import Fact

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
    from editors.methods.wise.method import Wise

    return Wise(load_base("atlas", device=device), {"shard_size": 4}, 0)


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
    from editors.scope.calibration import Phrasings

    with (datasets_dir() / "calibration.jsonl").open(encoding="utf-8") as lines:
        return method.empty([Phrasings.from_dict(json.loads(line)) for line in lines])


def test_edits_are_answered_and_routed_as_on_the_cpu(methods: list[Any]) -> None:
    from editors.inference.generation import answers

    facts = [Fact.from_dict(row) for row in rows("edits.jsonl", COUNT)]
    asked = [fact.prompt for fact in facts] + [fact.rephrases[0] for fact in facts]
    found = []
    for method in methods:
        before = answers(method.base, asked, 12)
        state = edit(method, facts, calibrated(method)).state
        with method.attach(state) as here, here.recording() as decisions:
            said = [answer.text for answer in answers(method.base, asked, 12)]
        assert said == 2 * [fact.target for fact in facts]
        assert answers(method.base, asked, 12) == before
        found.append([(d.shard, d.fact) for d in decisions.values()])
    assert found[0] == found[1] == found[2]


def test_states_that_leave_the_gpu_change_no_edit(
    methods: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = methods[1]
    facts = [Fact.from_dict(row) for row in rows("edits.jsonl", COUNT)]
    empty = calibrated(method)
    near = edit(method, facts, empty).state
    monkeypatch.setattr("editors.methods.training.state_offload.NEAR", 0)
    assert edit(method, facts, empty).state.to_blobs() == near.to_blobs()


def test_heads_do_what_they_do_on_the_cpu(methods: list[Any]) -> None:
    from editors.heads.path_patching import path_effects
    from editors.model.tokenization import Row, encode_prompts

    conflicts = [row for row in rows("conflicts.jsonl", 300) if row["kind"] == "substitution"][:6]
    found = []
    for method in methods:
        base = method.base
        original, corrupted = (
            base.batch([Row(ids, len(ids)) for ids in encode_prompts(base.tokenizer, prompts)])
            for prompts in (
                [f"{row['context']} {row['question']}" for row in conflicts],
                [row["question"] for row in conflicts],
            )
        )
        answers = encode_prompts(base.tokenizer, [row["context_answer"] for row in conflicts])
        tokens = torch.tensor([[ids[1]] for ids in answers])  # [rows, 1]
        found.append(path_effects(base, original, corrupted, tokens))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-3, rtol=1e-3)
