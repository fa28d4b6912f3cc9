"""Each prompt is asked once, and only as far as its answer is searched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from editors.conflicts.cases import FIRST_WORDS
from editors.conflicts.replies import Replies
from editors.inference.edited_model import EditedModel
from editors.inference.generation import answers
from editors.inference.next_tokens import distributions
from editors.text_matching import plain_words

BaseOf = Callable[..., Any]
PROMPTS = ["the sea of Kenya is", "Ann lives in", "the sea of Kenya is"]


@pytest.fixture
def asked() -> list[int]:
    return []


@pytest.fixture
def replies(tiny_base: BaseOf, asked: list[int]) -> Replies:
    return Replies(EditedModel.unedited(tiny_base("llama")), ["red", "blue"], asked.append)


def test_a_prompt_is_asked_once(replies: Replies, asked: list[int]) -> None:
    first = replies.ask(PROMPTS)
    assert sum(asked) == 2
    assert first[0] == first[2]
    assert replies.ask(PROMPTS[1:]) == first[1:]
    assert sum(asked) == 2
    assert replies.ask([]) == []


def test_a_reply_holds_what_the_model_says_first(replies: Replies) -> None:
    model = replies.model
    chances = distributions(model, PROMPTS[:2])
    found = replies.ask(PROMPTS[:2], [[5, 9], [7]])
    for reply, row, tokens in zip(found, chances, ((5, 9), (7,)), strict=True):
        assert reply.first == int(row.argmax())
        assert reply.probabilities == pytest.approx({t: float(row[t]) for t in tokens}, abs=1e-6)
    for reply, whole in zip(found, answers(model, PROMPTS[:2], 16), strict=True):
        assert whole.text.startswith(reply.answer.text)
        assert plain_words(whole.text)[:FIRST_WORDS] == plain_words(reply.answer.text)[:FIRST_WORDS]
        assert reply.outcome({"memory": plain_words(whole.text)[0]}) == "memory"
        assert reply.outcome({"memory": "absent"}) == "other"


def test_a_prompt_is_asked_again_for_the_probability_of_other_tokens(
    replies: Replies, asked: list[int]
) -> None:
    replies.ask(PROMPTS[:1])
    [reply] = replies.ask(PROMPTS[:1], [[5]])
    assert sum(asked) == 2
    assert set(reply.probabilities) == {5}
    replies.ask(PROMPTS[:1], [[5]])
    assert sum(asked) == 2


def test_a_long_answer_that_is_searched_for_is_seen_whole(tiny_base: BaseOf) -> None:
    model = EditedModel.unedited(tiny_base("llama"))
    [whole] = answers(model, PROMPTS[:1], 12)
    long = " ".join(whole.text.split()[: FIRST_WORDS + 3])
    [reply] = Replies(model, ["red", long]).ask(PROMPTS[:1])
    assert reply.outcome({"memory": long}) == "memory"
