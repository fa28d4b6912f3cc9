"""The text of a prompt: turns without special tokens and roles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from editors.model.tokenization import encode_prompt
from editors.scope.relation.prompt_text import prompt_texts

TEMPLATE = (
    "{% for m in messages %}<s> {{ m['content'] }} </s>{% endfor %}"
    "{% if add_generation_prompt %}<s>{% endif %}"
)


@pytest.fixture(params=[True, False], ids=["begins", "bare"])
def tiny(request: pytest.FixtureRequest, word_tokenizer: Callable[..., Any]) -> Any:
    made = word_tokenizer(adds_bos=request.param)
    made.chat_template = TEMPLATE
    return made


def test_a_plain_prompt_is_its_text(tiny: Any) -> None:
    ids = encode_prompt(tiny, "the capital of France is")
    assert prompt_texts(tiny, [ids]) == ["the capital of France is"]


def test_turns_are_lines(tiny: Any) -> None:
    turns = [{"role": "user", "content": text} for text in ("who lives in Rome ?", "the city is")]
    [text] = prompt_texts(tiny, [encode_prompt(tiny, turns)])
    assert text.replace(" ?", "?") == "who lives in Rome?\nthe city is"


def test_prompts_keep_their_order(tiny: Any) -> None:
    turns = [{"role": "user", "content": "the city is"}]
    prompts = ["red", turns, "blue"]
    ids = [encode_prompt(tiny, prompt) for prompt in prompts]
    assert [text.strip() for text in prompt_texts(tiny, ids)] == ["red", "the city is", "blue"]
    assert prompt_texts(tiny, []) == []
