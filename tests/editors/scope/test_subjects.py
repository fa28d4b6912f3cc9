"""Which facts' subjects a text names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editors.scope.subjects import Subjects


@pytest.mark.parametrize(
    ("subject", "text", "named"),
    [
        ("France", "The capital of France is", True),
        ("France", "the capital of FRANCE's neighbour", True),
        ("France", "a Frances by name", False),
        ("New York", "New York is large", True),
        ("New York", "New Yorkers are many", False),
        ("New York", "York is New", False),
        ("C++", "who wrote C++ ?", True),
        ("U.S.", "the U.S. is", True),
        ("U.S.", "the US is", False),
        ("St. John's", "where is St. John's?", True),
        ("Straße", "die STRASSE", True),
        ("!!!", "the band !!! plays", True),
        ("Porto", "In which country is Porto?", True),
        ("Porto", "In which country is Porto Alegre?", False),
        ("Guinea", "The capital of Guinea-Bissau is", False),
        ("Porto", "Is Porto Alegre larger than Porto?", True),
        ("Porto", "The Capital Of Porto Is", True),
        ("Porto", "THE MAYOR OF PORTO WAS", True),
        ("amber", "is amber Baltic or not", True),
        ("フランス", "フランスの首都は", True),  # nothing shows where such a name ends
        ("東京", "日本の首都は東京です", True),
        ("프랑스", "프랑스의 수도는", True),
        ("ไทย", "เมืองหลวงของไทยคือ", True),
        ("Tokyo", "Tokyoの首都", True),
        ("Tokyo", "Tokyoite", False),
        ("フランス", "ドイツの首都は", False),
        (None, "anything at all", True),
    ],
)
def test_a_subject_is_named_as_whole_words(subject: str | None, text: str, named: bool) -> None:
    assert Subjects([subject]).named_in(text) == ([0] if named else [])


words = st.text(alphabet="abcé' .+-", min_size=1, max_size=8).filter(
    lambda s: s.strip() == s and any(c.isalnum() for c in s)
)


@given(subject=words, before=words, after=words)
def test_a_subject_between_other_words_is_always_found(
    subject: str, before: str, after: str
) -> None:
    found = Subjects(["zz", subject]).named_in(f"{before} {subject} {after}")
    assert 1 in found
    assert found == sorted(set(found))
