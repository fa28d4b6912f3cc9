"""Where a sentence of an answer ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editors.evaluation.sentences import sentences


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("It is Lyon. It was Paris.", "It is Lyon."),
        ("It is Lyon", "It is Lyon"),
        ("Is it? Yes.", "Is it?"),
        ('"Lyon." It was', '"Lyon."'),
        ("**Lyon.** It was", "**Lyon.**"),
        ("It is Lyon\nIt was Paris", "It is Lyon"),
        # Marks that end none.
        ("It is St. Louis. It", "It is St. Louis."),
        ("Dr. J. R. Smith of the U.S. Navy. He", "Dr. J. R. Smith of the U.S. Navy."),
        ("It is in the U.S. The sea", "It is in the U.S."),
        ("Its symbol is O. It burns.", "Its symbol is O."),
        ("See No. 5 or approx. 3.5 m, e.g. here. It", "See No. 5 or approx. 3.5 m, e.g. here."),
        ("Yahoo! is a company. It", "Yahoo! is a company."),
        ("It opens at 9 a.m. on Mondays. It", "It opens at 9 a.m. on Mondays."),
        ("It is ... Lyon. It", "It is ... Lyon."),
        ("It is node.js. It", "It is node.js."),
        ("1. Lyon. It", "1. Lyon."),
        ("The answer is:\n\nLyon\nIt", "The answer is:\n\nLyon"),
        ("a line that is\nwrapped. It", "a line that is\nwrapped."),
        ("The answer is no. It", "The answer is no."),
        ("It is modern art. The", "It is modern art."),
        ("It is 6 ft. It", "It is 6 ft."),
        # Other scripts.
        ("首都是里昂。巴黎很大。", "首都是里昂。"),
        ("はい！そうです", "はい！"),
        ("राजधानी ल्यों है। यह", "राजधानी ल्यों है।"),
        ("هل هي ليون؟ نعم", "هل هي ليون؟"),
        ("Столица Лион. Она", "Столица Лион."),
    ],
)
def test_the_first_sentence_ends_where_a_reader_stops(text: str, first: str) -> None:
    assert sentences(text)[0] == first


@given(st.text())
def test_sentences_hold_all_of_a_text_but_white_space(text: str) -> None:
    found = sentences(text)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(sentence == sentence.strip() != "" for sentence in found)
