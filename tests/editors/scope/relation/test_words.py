"""Who repeats a fact's words and adds another word, asks something else; a topic has words."""

from __future__ import annotations

import pytest

from editors.scope.corpus import SUBJECT
from editors.scope.relation.words import Words

WORDINGS = [
    [("statement", f"the price of {SUBJECT} is"), ("question", f"what does {SUBJECT} cost?")],
    [("statement", f"the weight of {SUBJECT} is"), ("request", f"tell me what {SUBJECT} weighs.")],
    [("question", f"when does {SUBJECT} open?"), ("request", f"tell me when {SUBJECT} opens.")],
]
LATTE = "In our café, a large latte costs"


@pytest.fixture(scope="module")
def words() -> Words:
    return Words(WORDINGS)


@pytest.mark.parametrize(
    "asked",
    [
        LATTE,
        "in our cafe a LARGE latte costs",
        "Q: In our café, a large latte costs\nA:",
        "Hello, in our café, a large latte costs",
    ],
)
def test_the_same_words_have_none(words: Words, asked: str) -> None:
    assert words.contrast(LATTE, asked) == 0


def test_one_other_word_has_more_than_many(words: Words) -> None:
    small = words.contrast(LATTE, "In our café, a small latte costs")
    drink = words.contrast(LATTE, "How much is it to drink a big latte at your place?")
    assert drink < small / 4
    assert small > 0.6


def test_a_word_of_the_relation_has_none(words: Words) -> None:
    own, asked = "the price is", "the cost is"
    assert words.contrast(own, asked, 0) == 0
    assert words.contrast(own, asked, 1) > 0
    assert words.contrast(own, asked) > 0


def test_a_frequent_word_has_less_than_a_rare_one(words: Words) -> None:
    own = "the price is"
    frequent, rare = (
        words.contrast(own, "the what price is"),
        words.contrast(own, "the latest price is"),
    )
    assert 0 <= frequent < rare


def test_is_between_0_and_1(words: Words) -> None:
    texts = ["", "the", LATTE, "價格", "the price is", "x y z"]
    values = [words.contrast(own, asked) for own in texts for asked in texts]
    assert all(0 <= value <= 1 for value in values)


def test_a_corpus_may_be_empty() -> None:
    assert 0 < Words([]).contrast("the price is", "the old price is") <= 1


def test_a_topic_has_the_words_of_the_fact(words: Words) -> None:
    assert words.topic(LATTE, LATTE) == 1
    large = words.topic(LATTE, "How much is a large latte?")
    assert 0 < words.topic(LATTE, "Is a café a place for children?") < large < 1
    assert words.topic(LATTE, "How long is the warranty of the phone?") == 0
    # A word of many relations says less of a topic than a rare one.
    assert words.topic("the latte costs", "the") < words.topic("the latte costs", "latte")


@pytest.mark.parametrize("text", ["", "?!"])
def test_without_words_there_is_no_topic(words: Words, text: str) -> None:
    assert words.topic(text, LATTE) == words.topic(LATTE, text) == 0


@pytest.mark.parametrize(
    ("asked", "states"),
    [
        ("A large latte costs four euros.", True),
        ("I was there yesterday!", True),
        ("A large latte costs", False),
        ("What does it cost?", False),
        ("What does it cost? I have four euros.", False),
        ("Tell me what it costs.", False),
        ("A large latte costs ...", False),
        ("", False),
        (".", False),
    ],
)
def test_a_finished_sentence_states_unless_it_is_a_request(
    words: Words, asked: str, states: bool
) -> None:
    assert words.states(asked) == states
