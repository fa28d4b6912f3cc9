"""A memory of a single fact begins its answer after prompts of any kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tiny_edits import FRANCE, JAPAN, edit

from editors.inference.decisions import Decision, ImmediateRouter, Proposal
from editors.inference.edited_model import attached
from editors.methods.wise.training import any_prompt, joint
from editors.methods.wise.training.any_prompt import AnyPrompt
from editors.model.tokenization import Ids, encode_pairs, encode_prompts

Wises = Callable[..., Any]


class Opens(ImmediateRouter):
    """Opens the first memory for every prompt."""

    def propose(self, prompts: Sequence[Ids]) -> Proposal:
        return Proposal(prompts, [Decision(0) for _ in prompts])


def test_prompts_are_recorded_once_and_labelled_with_each_target(
    tiny_base: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, recorded = tiny_base("llama"), []

    def counted(*arguments: Any) -> Any:
        recorded.append(1)
        return joint.recorded_rows(*arguments)

    monkeypatch.setattr(any_prompt, "recorded_rows", counted)
    prompts = AnyPrompt(base)
    for fact in (FRANCE, JAPAN):
        [row] = encode_pairs(base.tokenizer, [(fact.prompt, fact.target)], stop=False)
        first = row.ids[row.prompt_length]
        records = [record for _, record in prompts.before(fact.target)]
        labels = torch.cat([record.labels for record in records])
        assert labels.tolist() == [first] * sum(record.rows for record in records)
    assert recorded == [1]
    for of_first, (_, again) in zip(records, AnyPrompt(base).before(JAPAN.target), strict=True):
        real = of_first.labelled  # the labels themselves differ, and come after these
        torch.testing.assert_close(of_first.inputs[real], again.inputs[real])


def test_the_memory_of_a_single_fact_begins_its_answer_after_each_of_them(tiny_wise: Wises) -> None:
    method = tiny_wise("llama", {"shard_size": 1, "confidence": 0.6})
    base, state = method.base, edit(method, [FRANCE]).state
    [row] = encode_pairs(base.tokenizer, [(FRANCE.prompt, FRANCE.target)], stop=False)
    with attached(base, method.replacements(state), Opens()):
        for ids in encode_prompts(base.tokenizer, any_prompt.PROMPTS):
            logits = base.model(input_ids=torch.tensor([ids])).logits
            assert int(logits[0, -1].argmax()) == row.ids[row.prompt_length]
