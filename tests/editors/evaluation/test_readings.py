"""Readings of answers, as people would judge them."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from editors.evaluation.readings import READINGS, exact, said, starts
from editors.inference.generation import Answer

word = st.text("abcdeéABCDE0123", min_size=4, max_size=8)
name = st.lists(word, min_size=1, max_size=3).map(" ".join)
anything = st.text(max_size=30)
some = st.text(min_size=1, max_size=30).filter(str.strip)


def readings(text: str, wanted: str, old: str | None = None, *, stopped: bool = True) -> set[str]:
    answer = Answer(text, stopped)
    return {reading for reading, gives in READINGS.items() if gives(answer, wanted, old)}


ALL, BUT_EXACT, SAID, NONE = {"exact", "starts", "said"}, {"starts", "said"}, {"said"}, set[str]()


@pytest.mark.parametrize(
    ("wanted", "text", "expected"),
    [
        # The answer alone, and what people overlook in it.
        ("Lyon", "Lyon", ALL),
        ("Paris", "paris.", ALL),
        ("New York", " new   York!?", ALL),
        ("São Paulo", "Sao Paulo", ALL),
        ("Zurich", "Zürich", ALL),
        ("Paris", "Ｐａｒｉｓ", ALL),
        ("Straße", "STRASSE", ALL),
        ("Côte d'Ivoire", "Cote d’Ivoire", ALL),
        ("1914-1918", "1914–1918", ALL),
        ("1000 euros", "1,000 euros", ALL),
        ("H2O", "H₂O", ALL),
        ("Yahoo!", "Yahoo", ALL),
        ("Lyon.", "Lyon", ALL),
        ("No", "no", ALL),
        # More than the answer.
        ("Lyon", "Lyon, which lies on the Rhône.", BUT_EXACT),
        ("Lyon", "**Lyon** is the capital", BUT_EXACT),
        ("Lyon", '"Lyon", he said', BUT_EXACT),
        ("Lyon", "Lyon's old town", BUT_EXACT),
        ("Lyon", "Lyon—a city", BUT_EXACT),
        ("no", "No, pets are not allowed.", BUT_EXACT),
        ("10", "10%", BUT_EXACT),
        ("Lyon", "The capital is Lyon.", SAID),
        ("Lyon", "1. Lyon", SAID),
        ("Lyon", "The capital is:\n\nLyon", SAID),
        ("Italie", "C'est en l'Italie.", SAID),
        ("St. Louis", "The team of Dr. J. Smith is from St. Louis. It won.", SAID),
        ("3.5", "It is 3.5 m long.", SAID),
        # Another answer.
        ("Lyon", "", NONE),
        ("Lyon", "Lyonesse", NONE),
        ("Lyon", "It is old. Lyon is older.", NONE),
        ("Guinea", "Guinea-Bissau", NONE),
        ("Bissau", "Guinea-Bissau is a country", NONE),
        ("O", "O'Neil", NONE),
        ("3", "3.5 million", NONE),
        ("1", "1,000", NONE),
        ("9", "9:30", NONE),
        ("5", "It is -5 degrees.", NONE),
        ("km", "km/h", NONE),
        ("node", "node.js", NONE),
        ("が", "か", NONE),
        # Symbols and digits count.
        ("?", "?", ALL),
        ("?", "", NONE),
        ("10²", "10².", ALL),
        ("10²", "102", NONE),
        ("102", "10²", NONE),
        ("10", "10²", NONE),
        ("5!", "5", NONE),
        ("$5", "5", NONE),
        ("+56", "+56", ALL),
        ("+56", "56", NONE),
        (".lb", "the suffix .lb", SAID),
        ("C++", "C++ is a language", BUT_EXACT),
        ("C++", "C", NONE),
        ("C", "C++", NONE),
        ("C", "C#", NONE),
        ("B", "B-", NONE),
        # So does case in symbols.
        ("Co", "Co", ALL),
        ("Co", "CO", NONE),
        ("CO", "Co", NONE),
        ("O", "o", NONE),
        ("WHO", "who", NONE),
        ("WHO", "The man who did it", NONE),
        ("In", "It lies in Paris", NONE),
        ("9 am", "9 AM", ALL),
        # Scripts without spaces have no edge.
        ("里昂", "里昂。", ALL),
        ("里昂", "里昂是首都", BUT_EXACT),
        ("里昂", "首都是里昂。巴黎很大。", SAID),
        ("巴黎", "首都是里昂。巴黎很大。", NONE),
        ("ลียง", "คือลียง", SAID),
        # A house rule of two sentences.
        ("Ask first. No dogs.", "Ask first. No dogs.", ALL),
        ("Ask first. No dogs.", "Ask first.", NONE),
    ],
)
def test_an_answer_is_read_as_people_would(wanted: str, text: str, expected: set[str]) -> None:
    assert readings(text, wanted) == expected


@pytest.mark.parametrize(
    ("wanted", "old", "text", "expected"),
    [
        ("Lyon", "Paris", "The capital is Lyon. Before, it was Paris.", SAID),
        ("Lyon", "Paris", "It is Lyon, not Paris.", NONE),
        ("Lyon", "Paris", "Lyon, not Paris.", {"starts"}),
        ("Lyon", "Paris", "Lyon, where Parisians spend weekends", BUT_EXACT),
        ("New York", "York", "New York", ALL),
        ("York", "New York", "It is New York.", NONE),
        ("New York", "New York City", "New York City", NONE),
        ("New York", "New York City", "New York State", BUT_EXACT),
        ("Lyon", "Lyon", "Lyon", ALL),
        # A correction of the spelling.
        ("Zürich", "Zurich", "Zürich", ALL),
        ("Zürich", "Zurich", "Zurich", NONE),
        ("iPhone", "iphone", "The iphone", NONE),
    ],
)
def test_the_old_answer_does_not_pass_for_the_new_one(
    wanted: str, old: str, text: str, expected: set[str]
) -> None:
    assert readings(text, wanted, old) == expected


@given(name, st.none() | name)
def test_the_target_alone_is_right_in_every_reading(wanted: str, old: str | None) -> None:
    assert readings(wanted, wanted, old) == ALL
    assert readings(wanted, wanted, old, stopped=False) == BUT_EXACT


@given(some, anything)
def test_what_is_exact_also_starts(wanted: str, text: str) -> None:
    for given_text in (text, wanted, f"{wanted}."):
        answer = Answer(given_text, stopped=True)
        assert not exact(answer, wanted) or starts(answer, wanted)


@given(name, anything)
def test_an_answer_that_goes_on_still_starts_and_is_exact_no_more(wanted: str, more: str) -> None:
    assume(any(char.isalnum() for char in more))
    assert readings(f"{wanted}, {more}", wanted) >= {"starts"}
    assert not exact(Answer(f"{wanted}, {more}", stopped=True), wanted)


@given(name, word, st.sampled_from(["{} {}", "{}, {}", "({}) {}"]))
def test_what_is_said_may_stand_anywhere_in_the_first_sentence_only(
    wanted: str, other: str, form: str
) -> None:
    assume(wanted.casefold() not in f"zzz {other}".casefold())
    assert said(Answer(form.format("Zzz", wanted) + f". {other}", stopped=False), wanted)
    assert not said(Answer(f"Zzz {other}. The {wanted} is", stopped=False), wanted)


@given(name, name, anything)
def test_no_answer_says_both_the_new_and_the_old(wanted: str, old: str, text: str) -> None:
    one, other = wanted.casefold(), old.casefold()
    assume(one not in other and other not in one)
    for given_text in (text, f"{wanted} {old}", f"{text} {wanted}"):
        answer = Answer(given_text, stopped=True)
        for gives in READINGS.values():
            assert not (gives(answer, wanted, old) and gives(answer, old, wanted))


@given(name, st.sampled_from([str.upper, str.lower, str.title, lambda n: f"\u200b {n} \n"]))
def test_case_and_space_of_words_do_not_count(wanted: str, spelt: object) -> None:
    assume(sum(char.isalpha() for char in wanted) > 3)
    assert callable(spelt)
    assert readings(spelt(wanted), wanted) == ALL


@given(some, anything, st.none() | some)
def test_any_text_is_read_and_composed_letters_do_not_count(
    wanted: str, text: str, old: str | None
) -> None:
    composed, decomposed = (
        readings(unicodedata.normalize(form, text), wanted, old) for form in ("NFC", "NFD")
    )
    assert composed == decomposed


@given(some)
def test_an_empty_answer_is_never_right(wanted: str) -> None:
    assert not readings("", wanted)
