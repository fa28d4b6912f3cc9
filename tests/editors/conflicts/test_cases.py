"""Conflicts: what a row must be, and whose an answer is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editors.conflicts.cases import FIRST_WORDS, Conflict, ConflictCase, Outcome, outcome_of
from editors.errors import InvalidConflict

ROW: dict[str, Any] = {
    "question": "the capital of France is",
    "context": "the capital of France is Lima .",
    "context_answer": "Lima",
}


# --- what a row must be -----------------------------------------------------------------------


def test_a_row_is_read_with_its_defaults_and_keys_of_one_s_own() -> None:
    row = Conflict.from_dict({**ROW, "x_note": 7, "relation": None, "memory_answer": None})
    assert row == Conflict(**ROW)
    assert (row.kind, row.split, row.memory_answer, row.subject) == ("substitution",) + (None,) * 3
    assert row.prompt == "the capital of France is Lima . the capital of France is"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, "question: is required"),
        ({"question": " "}, "question: must not be empty"),
        ({"context": ""}, "context: must not be empty"),
        ({"context_answer": ""}, "context_answer: is required"),
        ({"context_answer": None, "kind": "gold"}, "context_answer: is required"),
        ({"contxt": "x"}, "unknown key 'contxt' (did you mean 'context'?)"),
        ({"relation": 3}, "relation: must be text, not the number 3"),
        ({"context_answer": ["Lima"]}, "context_answer: must be text, not a list"),
        (
            {"kind": "counter"},
            "kind: must be 'substitution', 'coherent', 'irrelevant' or 'gold', not 'counter'",
        ),
        ({"split": "train"}, "split: must be 'locate', 'dev' or 'test', not 'train'"),
        ({"memory_answer": " "}, "memory_answer: must not be empty"),
        (
            {"memory_answer": " LIMA."},
            "context_answer: 'Lima' is the memory answer, so nothing conflicts",
        ),
        (
            {"memory_answer": "lima", "kind": "coherent"},
            "context_answer: 'Lima' is the memory answer, so nothing conflicts",
        ),
        ({"subject": "Spain"}, "subject: 'Spain' does not occur in the question"),
    ],
)
def test_a_row_at_fault_is_refused_in_words(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConflict) as caught:
        Conflict.from_dict({**ROW, **change})
    assert caught.value.message == message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "faults",
    [
        {"context": "", "subject": "Spain", "kind": "counter", "split": "train"},
        {"context_answer": "", "split": "train"},
    ],
)
def test_every_fault_of_a_row_is_named_at_once(faults: dict[str, Any]) -> None:
    with pytest.raises(InvalidConflict) as caught:
        Conflict.from_dict({**ROW, **faults})
    named = [problem.split(":")[0] for problem in caught.value.message.split("; ")]
    assert sorted(named) == sorted(faults)


def test_only_where_nothing_conflicts_may_both_answers_be_one() -> None:
    gold = Conflict.from_dict({**ROW, "memory_answer": "Lima", "kind": "gold"})
    assert not ConflictCase(gold, "Lima").conflicting
    off = {**ROW, "context_answer": None, "kind": "irrelevant"}
    irrelevant = ConflictCase(Conflict.from_dict(off), "Paris")
    assert not irrelevant.conflicting
    assert "context" not in irrelevant.candidates


# --- whose an answer is -----------------------------------------------------------------------

TWO: dict[Outcome, str] = {"memory": "Paris", "context": "Lima"}


@pytest.mark.parametrize(
    ("text", "outcome", "several"),
    [
        ("Paris", "memory", False),
        ("It is LIMA, they say.", "context", False),
        ("Lima, not Paris", "context", True),
        ("Paris or Lima", "memory", True),
        ("Parisian fashion", "other", False),
        ("preParis", "other", False),
        ("one two three four Lima", "context", False),
        ("one two three four five Lima", "other", False),
        ("", "other", False),
    ],
)
def test_the_earliest_answer_among_the_first_words_counts(
    text: str, outcome: Outcome, several: bool
) -> None:
    assert outcome_of(text, TWO) == (outcome, several)


def test_of_answers_that_begin_together_the_longest_counts() -> None:
    named: dict[Outcome, str] = {"memory": "New York", "context": "New York City"}
    assert outcome_of("New York City", named) == ("context", True)
    assert outcome_of("New York", named) == ("memory", False)


def test_of_equal_answers_the_first_candidate_counts_and_it_is_one() -> None:
    same: dict[Outcome, str] = {"memory": "Paris", "context": "paris", "before": "Rome"}
    assert outcome_of("Paris", same) == ("memory", False)


def test_an_answer_longer_than_the_first_words_must_come_at_once() -> None:
    long = "one two three four five six"
    assert outcome_of(long, {"memory": long}) == ("memory", False)
    assert outcome_of(f"so {long}", {"memory": long}) == ("other", False)


def test_accents_case_and_punctuation_do_not_count() -> None:
    named: dict[Outcome, str] = {"memory": "São Paulo", "context": "Großenhain"}
    assert outcome_of("SAO PAULO!", named)[0] == "memory"
    assert outcome_of("«sa\u0303o, paulo»", named)[0] == "memory"
    assert outcome_of("GROSSENHAIN", named)[0] == "context"


def test_where_words_are_not_spaced_characters_are_compared() -> None:
    named: dict[Outcome, str] = {"memory": "东京", "context": "巴黎"}
    assert outcome_of("是巴黎。", named) == ("context", False)
    assert outcome_of("东方", named) == ("other", False)
    assert outcome_of("answer:东京", named) == ("memory", False)


words = st.lists(st.sampled_from(["Paris", "Lima", "Rome", "the", "is"]), max_size=8)


@given(answer=words, memory=words, context=words)
def test_an_outcome_is_one_of_the_candidates_that_the_answer_names(
    answer: list[str], memory: list[str], context: list[str]
) -> None:
    named: dict[Outcome, str] = {"memory": " ".join(memory), "context": " ".join(context)}
    outcome, several = outcome_of(" ".join(answer), named)
    if outcome == "other":
        assert not several
    else:
        assert named[outcome] in " ".join(answer)
        first = {"memory": memory, "context": context}[outcome]
        assert answer[: len(first)] == first or len(first) <= FIRST_WORDS
