"""Who repeats a fact's words and adds another word, asks something else."""

from __future__ import annotations

import pytest

from editors.scope.corpus import SUBJECT
from editors.scope.relation.contrast import Contrast

WORDINGS = [
    [("statement", f"the price of {SUBJECT} is"), ("question", f"what does {SUBJECT} cost?")],
    [("statement", f"the weight of {SUBJECT} is"), ("request", f"tell me what {SUBJECT} weighs.")],
    [("question", f"when does {SUBJECT} open?"), ("request", f"tell me when {SUBJECT} opens.")],
]
LATTE = "In our café, a large latte costs"


@pytest.fixture(scope="module")
def contrast() -> Contrast:
    return Contrast(WORDINGS)


@pytest.mark.parametrize(
    "asked",
    [
        LATTE,
        "in our cafe a LARGE latte costs",
        "Q: In our café, a large latte costs\nA:",
        "Hello, in our café, a large latte costs",
    ],
)
def test_the_same_words_have_none(contrast: Contrast, asked: str) -> None:
    assert contrast.between(LATTE, asked) == 0


def test_one_other_word_has_more_than_many(contrast: Contrast) -> None:
    small = contrast.between(LATTE, "In our café, a small latte costs")
    drink = contrast.between(LATTE, "How much is it to drink a big latte at your place?")
    assert drink < small / 4
    assert small > 0.6


def test_a_word_of_the_relation_has_none(contrast: Contrast) -> None:
    own, asked = "the price is", "the cost is"
    assert contrast.between(own, asked, 0) == 0
    assert contrast.between(own, asked, 1) > 0
    assert contrast.between(own, asked) > 0


def test_a_frequent_word_has_less_than_a_rare_one(contrast: Contrast) -> None:
    own = "the price is"
    frequent, rare = (
        contrast.between(own, "the what price is"),
        contrast.between(own, "the latest price is"),
    )
    assert 0 <= frequent < rare


def test_is_between_0_and_1(contrast: Contrast) -> None:
    texts = ["", "the", LATTE, "價格", "the price is", "x y z"]
    values = [contrast.between(own, asked) for own in texts for asked in texts]
    assert all(0 <= value <= 1 for value in values)


def test_a_corpus_may_be_empty() -> None:
    assert 0 < Contrast([]).between("the price is", "the old price is") <= 1
