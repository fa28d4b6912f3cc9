"""Words and names in text of any script, and when two answers are the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editors.text_matching import normalised, plain_words, replace_words, words


@pytest.mark.parametrize(
    ("text", "flat"),
    [
        ("  Paris. ", "paris"),
        ("New\n  York!?", "new york"),
        ("Ｐａｒｉｓ", "paris"),
        ("STRASSE", "strasse"),
        ("straße", "strasse"),
        ("U.S.", "u.s"),
        ("3.14", "3.14"),
        (".,;", ""),
    ],
)
def test_case_space_and_closing_marks_do_not_count(text: str, flat: str) -> None:
    assert normalised(text) == flat


@given(st.text())
def test_normalising_twice_is_normalising_once(text: str) -> None:
    once = normalised(text)
    assert normalised(once) == once


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("The capital, of C++!", ["The", "capital", "of", "C"]),
        ("日本の首都", ["日", "本", "の", "首", "都"]),
        ("Tokyoの首都", ["Tokyo", "の", "首", "都"]),
        ("Straße 7", ["Straße", "7"]),
    ],
)
def test_words_stand_as_they_are_and_unspaced_scripts_go_one_by_one(
    text: str, expected: list[str]
) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Porto is not Portofino", "X is not Portofino"),
        ("Porto, Porto's", "X, X's"),
        ("porto", "porto"),
        ("", ""),
    ],
)
def test_only_whole_words_are_replaced(text: str, expected: str) -> None:
    assert replace_words(text, "Porto", "X") == expected


def test_what_replaces_a_name_is_taken_as_it_stands() -> None:
    assert replace_words("a C++ b", "C++", r"\1 \g<0>") == r"a \1 \g<0> b"


def test_plain_words_have_no_case_accents_or_punctuation() -> None:
    assert plain_words("Zürich, ÉCOLE!") == ["zurich", "ecole"]
