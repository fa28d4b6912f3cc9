"""An alias is no other subject, and no alias of another."""

from __future__ import annotations

import pytest

from editors import Fact
from editors.methods.aliases import KnownNames

UK = Fact("The king of the UK is", "Ann", "UK", aliases=("Great Britain",), id="uk")
PERU = Fact("The king of Peru is", "Eva", "Peru", id="peru")


def fact(subject: str, *aliases: str) -> Fact:
    return Fact(f"The queen of {subject} is", "Ann", subject, aliases=aliases)


@pytest.mark.parametrize(
    ("new", "problem"),
    [
        (fact("United Kingdom", "the uk"), "aliases: 'the uk' is the subject of fact uk; "),
        (
            fact("England", "GREAT  britain"),
            "aliases: 'GREAT  britain' is an alias of 'UK' in fact uk; ",
        ),
        (fact("Great Britain"), "subject: 'Great Britain' is an alias of 'UK' in fact uk; "),
    ],
)
def test_a_name_of_another_subject_is_a_clash(new: Fact, problem: str) -> None:
    clash = KnownNames([PERU, UK]).clash(new)
    assert clash
    assert clash.startswith(problem)


@pytest.mark.parametrize(
    "new",
    [
        fact("uk", "great britain", "Albion"),
        fact("Chile", "Tierra"),
        Fact("Great Britain and the UK are", "one"),
    ],
)
def test_facts_about_the_same_and_about_others_do_not_clash(new: Fact) -> None:
    assert KnownNames([PERU, UK]).clash(new) is None


def test_a_fact_does_not_clash_with_the_one_that_it_replaces() -> None:
    new = Fact(UK.prompt, "Eva", "king", aliases=("Great Britain",))
    assert KnownNames([UK]).clash(new) is None
    assert KnownNames([UK, fact("UK", "Great Britain")]).clash(new) is not None
