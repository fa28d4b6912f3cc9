"""Names are compared as people read them, and are found as whole words."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from editors.text_matching.names import folded, folded_name, nearest_words, whole_word_spans

# Letters that compose, decompose, fold to several, vanish or join the one before them.
LETTERS = (
    "aeE\u0301\u0308\u00e9\u00df\u0130\ufb01\u0929\u093c\u1100\u1161\u11a8\u3131\u314f\uff76\uff9e"
)
odd = st.text(f"{LETTERS}\u200b\u00ad\ufe0f \t\n\u00a0-\u2013'\u2019")
texts = st.one_of(st.text(), odd)


@given(texts)
@example("\u3131\u314f")
@example("e\u200d\u0301")
@example("a \u200b b")
def test_folding_twice_is_folding_once(text: str) -> None:
    once = folded(text).text
    assert folded(once).text == once


@given(texts)
def test_the_form_of_unicode_does_not_count(text: str) -> None:
    forms = {folded(unicodedata.normalize(form, text)).text for form in ("NFC", "NFD")}
    assert forms == {folded(text).text}


@given(texts)
def test_each_character_knows_where_it_stood(text: str) -> None:
    of_text = folded(text)
    count = len(of_text.text)
    assert len(of_text.starts) == len(of_text.ends) == count
    assert [*of_text.starts] == sorted(of_text.starts)
    for number in range(count):
        start, end = of_text.span(number, number + 1)
        assert 0 <= start < end <= len(text)
        assert of_text.text[number] in folded(text[start:end]).text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("St. John's", "st. john\u2019s"),
        ("Bras\u00edlia", "Brasi\u0301lia"),
        ("Guinea-Bissau", "Guinea\u2013Bissau"),
        ("Guinea-Bissau", "Guinea\u2011Bissau"),
        ("New York", "new\u00a0york"),
        ("New York", "New\n  York"),
        ("Fran\u00adce", "France"),
        ("Stra\u00dfe", "STRASSE"),
        ("Henry \u2167", "Henry VIII"),
        ("\uff8c\uff97\uff9d\uff7d", "\u30d5\u30e9\u30f3\u30b9"),
        ("the UK", "UK"),
        ('"Heroes"', "\u201cHeroes\u201d"),
    ],
)
def test_two_spellings_are_one_name(one: str, other: str) -> None:
    assert folded_name(one) == folded_name(other)
    assert whole_word_spans(one, f"is {other} far?") == [(3, 3 + len(other))] or "the" in one


@pytest.mark.parametrize(
    ("one", "other"), [("Peru", "Per\u00fa"), ("The Who", "Who"), ("C", "C++"), ("US", "U.S.")]
)
def test_two_names_stay_two(one: str, other: str) -> None:
    assert folded_name(one) != folded_name(other)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("dog", "the dogs of the dog", ["dog"]),
        ("Porto", "Porto's port, porto", ["Porto", "porto"]),
        ("C", "C++ and C# are not C.", ["C"]),
        ("C++", "C++, c++ and C++11", ["C++", "c++"]),
        ("Node", "Node.js. Node. Then node", ["Node", "node"]),
        ("U.S.", "the U.S. and the U.S.A.", ["U.S."]),
        ("3", "3, 3.11 and 13", ["3"]),
        ("France", "**France**, _France_, #France", ["France"] * 3),
        ("size", "max_size", []),
        ("AT", "AT&T", []),
        (".NET", "ASP.NET and .NET", [".NET"]),
        ("Bora Bora", "Bora Bora Bora", ["Bora Bora"]),
        ("\u0928\u092e", "\u0928\u092e\u093e", []),  # a vowel sign goes on with the word
        ("Tokyo", "Tokyo\u306e\u9996\u90fd", ["Tokyo"]),
        (
            "\u6771\u4eac",
            "\u65e5\u672c\u306e\u9996\u90fd\u306f\u6771\u4eac\u3067\u3059",
            ["\u6771\u4eac"],
        ),
    ],
)
def test_a_name_is_found_as_whole_words(name: str, text: str, found: list[str]) -> None:
    assert [text[start:end] for start, end in whole_word_spans(name, text)] == found


@pytest.mark.parametrize(
    ("name", "text", "nearest"),
    [
        ("dog", "The dogs of the village bark at", "dogs"),
        ("Frankreich", "Die Hauptstadt Frankreichs ist", "Frankreichs"),
        ("Unted Kingdom", "The sea of the United Kingdom is", "United Kingdom"),
        ("C", "C++ was made by", "C++"),
        ("Berlin", "The capital of it is", None),
    ],
)
def test_the_nearest_words_are_named(name: str, text: str, nearest: str | None) -> None:
    assert nearest_words(name, text) == nearest
