"""Context-aware decoding: what is chosen from two runs of which one has a context."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_configs import EDITABLE
from tiny_edits import FACTS, edit
from tiny_models import quick_first

from editors import EditorError
from editors.conflicts.baselines.contrastive import adaptive_weight, contrastive_answers
from editors.inference.edited_model import EditedModel
from editors.inference.generation import Answer, answers
from editors.model.tokenization import encode_prompt

BaseOf = Callable[..., Any]
QUESTIONS = ["the capital of France is", "Ann lives in", "the river of Peru is", "who wrote"]
CONTEXTS = [
    "Rome is the capital city of France .",
    "Ann was born in Oslo and lives in Cairo .",  # as long as the first, with its question
    "Spain !",
    "",
]
PROMPTS = [f"{context} {question}" for context, question in zip(CONTEXTS, QUESTIONS, strict=True)]
TOKENS = 8


def token_by_token(base: Any, prompt: str, question: str, alpha: float | None) -> str:
    """The answer without a cache, a batch or a pad: two whole forwards a token."""
    ids = [list(encode_prompt(base.tokenizer, text)) for text in (prompt, question)]
    answer: list[int] = []
    while len(answer) < TOKENS and base.tokenizer.eos_token_id not in answer:
        with torch.no_grad():
            informed, alone = (base.model(torch.tensor([i + answer])).logits[0, -1] for i in ids)
        p, q = informed.softmax(-1), alone.softmax(-1)
        middle = (p + q) / 2
        apart = float((p * (p / middle).log() + q * (q / middle).log()).sum()) / 2
        weight = apart if alpha is None else alpha
        answer.append(int(((1 + weight) * informed - weight * alone).argmax()))
    return base.tokenizer.decode(answer, skip_special_tokens=True)


@pytest.mark.parametrize("family", quick_first(EDITABLE))
def test_the_ends_of_the_scale_are_the_prompt_and_the_question(
    tiny_base: BaseOf, family: str
) -> None:
    model = EditedModel.unedited(tiny_base(family))
    informed, alone = answers(model, PROMPTS, TOKENS), answers(model, QUESTIONS, TOKENS)
    assert contrastive_answers(model, PROMPTS, QUESTIONS, TOKENS, 0.0) == informed
    assert contrastive_answers(model, PROMPTS, QUESTIONS, TOKENS, -1.0) == alone
    assert informed != alone, "or the test says nothing"


@pytest.mark.parametrize("alpha", [1.0, -0.5, None])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "bloom"])
def test_an_answer_is_the_one_worked_out_token_by_token(
    tiny_base: BaseOf, family: str, alpha: float | None
) -> None:
    base = tiny_base(family)
    contrasted = contrastive_answers(EditedModel.unedited(base), PROMPTS, QUESTIONS, TOKENS, alpha)
    wanted = [token_by_token(base, *pair, alpha) for pair in zip(PROMPTS, QUESTIONS, strict=True)]
    assert [answer.text for answer in contrasted] == wanted


@pytest.mark.parametrize("alpha", [1.0, -0.5, None])
def test_a_row_s_answer_does_not_depend_on_the_others(tiny_base: BaseOf, alpha: Any) -> None:
    model = EditedModel.unedited(tiny_base("llama"))
    alone = [
        contrastive_answers(model, [prompt], [question], TOKENS, alpha)[0]
        for prompt, question in zip(PROMPTS, QUESTIONS, strict=True)
    ]
    assert contrastive_answers(model, PROMPTS, QUESTIONS, TOKENS, alpha) == alone


def test_a_row_stops_while_another_goes_on(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    model = EditedModel.unedited(base)
    first, second = contrastive_answers(model, PROMPTS[:2], QUESTIONS[:2], TOKENS, 1.0)
    words = second.text.split()
    end = next(i for i, word in enumerate(words) if i and word not in first.text.split())
    ending = deepcopy(base.model)
    ending.generation_config.eos_token_id = base.tokenizer.convert_tokens_to_ids(words[end])
    model = EditedModel.unedited(replace(base, model=ending))
    both = contrastive_answers(model, PROMPTS[:2], QUESTIONS[:2], TOKENS, 1.0)
    assert both == [first, Answer(" ".join(words[: words.index(words[end])]), stopped=True)]
    assert not first.stopped


@pytest.mark.parametrize("name", ["wise", "in-context", "ft-m"])
def test_an_edited_model_s_ends_of_the_scale_are_its_own_answers(
    tiny_method: Callable[..., Any], name: str
) -> None:
    method = tiny_method(name)
    with method.attach(edit(method, FACTS).state) as model:
        questions = [fact.prompt for fact in FACTS]
        prompts = [f"Ann works . {question}" for question in questions]
        informed, alone = (
            [answer.text for answer in answers(model, texts, TOKENS)]
            for texts in (prompts, questions)
        )
        for alpha, wanted in ((0.0, informed), (-1.0, alone)):
            contrasted = contrastive_answers(model, prompts, questions, TOKENS, alpha)
            assert [answer.text for answer in contrasted] == wanted
    assert alone != [
        answer.text for answer in answers(EditedModel.unedited(method.base), questions, TOKENS)
    ]


def test_the_adaptive_weight_is_the_divergence_in_nats() -> None:
    informed = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.75, 0.25, 0.0]]).log()
    alone = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.25, 0.75, 0.0]]).log()
    # The last: both meet at 1/2, 1/2, so it is ln 2 less the entropy of (3/4, 1/4).
    last = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    weights = adaptive_weight(informed, alone)
    assert weights[0] == 0
    torch.testing.assert_close(weights, torch.tensor([0.0, math.log(2), last]))
    # A logit more on every token is the same distribution.
    torch.testing.assert_close(adaptive_weight(informed + 3, alone - 2), weights)


def test_what_cannot_be_contrasted_is_refused(tiny_base: BaseOf) -> None:
    model = EditedModel.unedited(tiny_base("llama"))
    with pytest.raises(EditorError, match="4 prompts cannot be paired with 3"):
        contrastive_answers(model, PROMPTS, QUESTIONS[:3], TOKENS, 1.0)
    for alpha in (-1.5, math.nan):
        with pytest.raises(EditorError, match="below -1"):
            contrastive_answers(model, PROMPTS, QUESTIONS, TOKENS, alpha)
