"""What a prompt asks: the subject is taken out, and earlier sentences are cut off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editors.scope.relation.asking import MARK, asking_part, filled, masked, sentences


@given(st.text(max_size=80))
def test_sentences_are_the_whole_text(text: str) -> None:
    assert "".join(sentences(text)) == text
    assert text.endswith(asking_part(text))


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        (f"The capital of {MARK} is", f"The capital of {MARK} is"),
        (f"It rains. The capital of {MARK} is", f"The capital of {MARK} is"),
        (f"The median age was 35 years. {MARK} lies in", f"{MARK} lies in"),
        (f"I read about {MARK}. What is its capital?", None),
        (f"St. John met {MARK} on Mt. Meru in", None),
        (f"a list\n{MARK}: capital", f"{MARK}: capital"),
        ("It rains. How long may I return it?", "How long may I return it?"),
        ("", ""),
    ],
)
def test_the_sentence_with_the_last_mention_asks(text: str, asked: str | None) -> None:
    assert asking_part(text) == (text if asked is None else asked)


def test_a_name_is_replaced_with_its_article() -> None:
    text = "Who built the Hindenburg, and where is the Hindenburg now?"
    spans = [(14, 24), (43, 53)]
    assert [text[start:end] for start, end in spans] == ["Hindenburg"] * 2
    wanted = f"Who built {MARK}, and where is {MARK} now?"
    assert masked(text, spans) == wanted
    assert filled(text, "Hindenburg") == wanted
    assert masked(text, []) == text
