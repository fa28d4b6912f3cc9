"""Conflicts: what a row must be, whose an answer is, and how answers are counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_edits import FACTS, FRANCE, JAPAN, edit

from editors.conflicts.cases import (
    FIRST_WORDS,
    Asked,
    Conflict,
    Measured,
    Outcome,
    Rates,
    RowResult,
    answer_room,
    context_utilisation,
    decisions,
    first_token,
    measure,
    memorization_ratio,
    next_probabilities,
    outcome_of,
    outcome_of_token,
    with_edits,
    with_memory,
)
from editors.errors import InvalidConflict
from editors.inference.generation import Answer, answers
from editors.model.tokenization import encode_prompt

BaseOf = Callable[..., Any]
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
    ("change", "said"),
    [
        ({"question": None}, "question: is required"),
        ({"question": " "}, "question: is required"),
        ({"context": ""}, "context: is required"),
        ({"context_answer": ""}, "context_answer: is required"),
        ({"context_answer": None, "kind": "gold"}, "context_answer: is required"),
        ({"contxt": "x"}, "unknown key 'contxt'"),
        ({"relation": 3}, "relation: must be a text"),
        ({"context_answer": ["Lima"]}, "context_answer: must be a text"),
        (
            {"kind": "counter"},
            "kind: must be one of substitution, coherent, irrelevant, gold, not 'counter'",
        ),
        ({"split": "train"}, "split: must be one of locate, dev, test, not 'train'"),
        (
            {"memory_answer": " "},
            "memory_answer: is empty; leave it out to have the model asked",
        ),
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
def test_a_row_at_fault_is_refused_in_words(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidConflict) as caught:
        Conflict.from_dict({**ROW, **change})
    assert caught.value.message == said
    assert caught.value.exit_code == 2


def test_every_fault_of_a_row_is_named_at_once() -> None:
    faults = {"question": "", "kind": "counter", "split": "train", "subject": "Spain"}
    with pytest.raises(InvalidConflict) as caught:
        Conflict.from_dict({**ROW, **faults})
    assert [problem.split(":")[0] for problem in caught.value.message.split("; ")] == [
        "question",
        "kind",
        "split",
        "subject",
    ]


def test_only_where_nothing_conflicts_may_both_answers_be_one() -> None:
    gold = Conflict.from_dict({**ROW, "memory_answer": "Lima", "kind": "gold"})
    assert not Asked(gold, "Lima").conflicting
    off = {**ROW, "context_answer": None, "kind": "irrelevant"}
    irrelevant = Asked(Conflict.from_dict(off), "Paris")
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


@given(said=words, memory=words, context=words)
def test_an_outcome_is_one_of_the_candidates_that_are_said(
    said: list[str], memory: list[str], context: list[str]
) -> None:
    named: dict[Outcome, str] = {"memory": " ".join(memory), "context": " ".join(context)}
    outcome, several = outcome_of(" ".join(said), named)
    if outcome == "other":
        assert not several
    else:
        assert named[outcome] in " ".join(said)
        first = {"memory": memory, "context": context}[outcome]
        assert said[: len(first)] == first or len(first) <= FIRST_WORDS


# --- counting ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("without", "told", "wanted"),
    [(0.2, 0.6, 0.5), (0.6, 0.2, -2 / 3), (0.3, 0.3, 0.0), (1.0, 1.0, 0.0), (1.0, 0.0, -1.0)],
)
def test_utilisation_is_the_share_of_the_way_that_was_left(
    without: float, told: float, wanted: float
) -> None:
    """Property 11."""
    assert context_utilisation(without, told) == pytest.approx(wanted)


def test_the_memorization_ratio_of_nothing_is_undefined() -> None:
    assert memorization_ratio(0.0, 0.0) is None
    assert memorization_ratio(0.0, 0.4) == 0.0
    assert memorization_ratio(0.3, 0.1) == pytest.approx(0.75)
    assert Measured().memorization_ratio is None


outcomes = st.lists(
    st.sampled_from(["memory", "context", "before", "other"]), min_size=1, max_size=9
)


@given(outcomes)
def test_shares_of_outcomes_sum_to_one(found: list[Outcome]) -> None:
    rates = Rates.of(found)
    each = (rates.memory, rates.context, rates.other, rates.before)
    assert sum(rate.value for rate in each) == pytest.approx(1.0)
    assert all(rate.n == len(found) for rate in each)


def test_what_counts_as_following_depends_on_the_kind_of_passage() -> None:
    def bcu(kind: str, outcome: Outcome) -> float:
        row = Conflict(**ROW, kind=kind)  # type: ignore[arg-type]
        result = RowResult(Asked(row, "Paris"), "", outcome, False)
        return Measured((result,)).binary_utilisation.value

    told = {
        "substitution": {"context"},
        "coherent": {"context"},
        "gold": {"context", "memory"},
        "irrelevant": {"memory"},
    }
    for kind, right in told.items():
        for outcome in ("memory", "context", "other"):
            assert bcu(kind, outcome) == float(outcome in right)  # type: ignore[arg-type]


# --- asking -----------------------------------------------------------------------------------

KENYA = Conflict("the sea of Kenya is", "the sea of Kenya is red .", "red", subject="Kenya")


def test_a_memory_answer_that_is_given_is_not_asked_for(
    tiny_base: BaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {
        "a": Answer("Paris. And so on", False),
        "b": Answer("one two three four five six", False),
        "c": Answer("one two three. Four five six", True),
        "d": Answer("", True),
    }
    asked: list[str] = []

    def say(base: Any, prompts: Sequence[str], room: int) -> list[Answer]:
        asked.extend(prompts)
        return [told[prompt] for prompt in prompts]

    monkeypatch.setattr("editors.conflicts.cases.answers", say)
    rows = [Conflict(question, "x", "y") for question in ("a", "b", "a", "c", "d")]
    rows.append(Conflict("e", "x", "y", memory_answer="given"))
    found = with_memory(tiny_base("llama"), rows)
    assert [a.row.question for a in found] == ["a", "b", "a", "c", "e"], "no answer, no row"
    assert [a.memory for a in found] == [
        "Paris",
        "one two three four five",
        "Paris",
        "one two three. Four five six",
        "given",
    ]
    assert sorted(asked) == ["a", "b", "c", "d"], "each question once"


def test_an_elicited_answer_begins_as_the_model_does(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    [asked] = with_memory(base, [KENYA])
    [said] = answers(base, [KENYA.question], 16)
    assert said.text.startswith(asked.memory)
    likeliest = int(next_probabilities(base, [KENYA.question])[0].argmax())
    assert first_token(base, KENYA.question, asked.memory) == likeliest
    assert outcome_of(said.text, asked.candidates)[0] == "memory"


@pytest.fixture(scope="module")
def method(tiny_wise: Callable[..., Any]) -> Any:
    return tiny_wise("llama")


@pytest.fixture(scope="module")
def edits(method: Any) -> Any:
    return edit(method, FACTS).state


def about_france(context_answer: str, kind: str = "substitution") -> Conflict:
    passage = f"the capital of France is {context_answer or 'far'} ."
    return Conflict(FRANCE.prompt, passage, context_answer, "Paris", kind=kind)  # type: ignore[arg-type]


def edited_rows(method: Any, edits: Any, rows: Sequence[Conflict]) -> list[Asked]:
    known = with_memory(method.base, rows)
    with method.attach(edits) as here:
        return with_edits(method.base, known, here, {f.id: f for f in edits.in_force()})


def test_an_edit_is_memory_and_the_base_s_answer_is_what_was_before(
    method: Any, edits: Any
) -> None:
    """Property 12."""
    silent = replace(about_france("Lima"), memory_answer=None)
    [asked] = edited_rows(method, edits, [silent])
    [before] = with_memory(method.base, [silent])
    assert (asked.memory, asked.fact, asked.before) == (FRANCE.target, FRANCE.id, before.memory)
    assert before.memory != FRANCE.target
    assert asked.candidates == {"memory": "Rome", "context": "Lima", "before": before.memory}


def test_rows_about_nothing_that_is_edited_stay_as_they_are(method: Any, edits: Any) -> None:
    known = with_memory(method.base, [KENYA])
    assert edited_rows(method, edits, [KENYA]) == known
    with method.attach(edits) as here:
        others = {fact.id: fact for fact in (JAPAN,)}
        [asked] = with_edits(method.base, [Asked(about_france("Lima"), "Paris")], here, others)
    assert (asked.memory, asked.fact) == ("Paris", None), "an edit that is not in force"


def test_a_question_near_an_edit_that_the_gate_stays_shut_for_is_not_about_it(
    method: Any, edits: Any
) -> None:
    questions = [f"the {asked} of France is" for asked in ("sea", "river", "leader", "mountain")]
    with method.attach(edits) as here:
        decided = dict(zip(questions, decisions(method.base, here, questions), strict=True))
    shut = [question for question, decision in decided.items() if not decision.opened]
    assert any(decided[question].fact == FRANCE.id for question in shut), "named and too far"
    rows = [Conflict(question, "it is red .", "red") for question in shut]
    assert edited_rows(method, edits, rows) == with_memory(method.base, rows)


def test_a_passage_that_says_what_memory_says_is_left_out_but_for_edits(
    method: Any, edits: Any
) -> None:
    [kenya] = with_memory(method.base, [KENYA])
    agreeing = replace(KENYA, context_answer=kenya.memory.upper())
    gold = replace(agreeing, kind="gold")
    found = edited_rows(method, edits, [agreeing, gold, about_france("Rome")])
    assert [a.row.kind for a in found] == ["gold", "substitution"]
    assert not any(a.conflicting for a in found), "the passage says what the edit says"


STATES = {
    "no claim": ("", "irrelevant"),
    "agrees": ("Rome", "substitution"),
    "stale": ("Paris", "substitution"),
    "third": ("Lima", "substitution"),
}


def test_the_four_outcomes_under_the_four_states(method: Any, edits: Any) -> None:
    """Property 12: the edit, the passage, the answer before the edit, or another."""
    rows = edited_rows(method, edits, [about_france(*state) for state in STATES.values()])
    assert [a.conflicting for a in rows] == [False, False, True, True]
    found = {}
    for said in ("Rome", "Lima", "Paris", "Oslo"):
        with method.attach(edits) as here:
            measured = measure(
                method.base, rows, here, lambda asked, room, said=said: [Answer(said, True)] * 4
            )
        found[said] = [result.outcome for result in measured.results]
        assert len(measured.edited.results) == 4
    assert found == {
        "Rome": ["memory"] * 4,
        "Lima": ["other", "other", "other", "context"],
        "Paris": ["before", "before", "context", "before"],
        "Oslo": ["other"] * 4,
    }


def test_an_edited_model_answers_edited_questions_by_the_edit_and_others_as_before(
    method: Any, edits: Any
) -> None:
    rows = [Conflict(fact.prompt, "Ann works .", kind="irrelevant") for fact in FACTS]
    about = edited_rows(method, edits, rows)
    assert [a.fact for a in about] == [fact.id for fact in FACTS]
    with method.attach(edits) as here:
        said = measure(method.base, about, here, lambda asked, room: _closed_book(method, asked))
        elsewhere = measure(method.base, with_memory(method.base, [KENYA]), here)
    assert [result.outcome for result in said.results] == ["memory"] * len(FACTS)
    plain = measure(method.base, with_memory(method.base, [KENYA]))
    assert [r.opened for r in elsewhere.results] == [False]
    assert [replace(r, opened=None) for r in elsewhere.results] == list(plain.results)


def _closed_book(method: Any, asked: Sequence[Asked]) -> list[Answer]:
    return answers(method.base, [a.row.question for a in asked], 6)


# --- measuring --------------------------------------------------------------------------------


def some_rows() -> list[Conflict]:
    """One of each kind for three subjects."""
    told = [("Kenya", "red"), ("Spain", "Rome"), ("Italy", "Oslo")]
    return [
        Conflict(
            f"the sea of {subject} is",
            f"the sea of {subject} is {answer} ." + " Ann works ." * n,
            "" if kind == "irrelevant" else answer,
            "w92" if kind == "gold" else None,
            subject,
            kind=kind,  # type: ignore[arg-type]
        )
        for subject, answer in told
        for n, kind in enumerate(("substitution", "coherent", "gold", "irrelevant"))
    ]


def test_without_anything_attached_greedy_answers_are_judged(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    asked = with_memory(base, some_rows())
    said = answers(base, [a.row.prompt for a in asked], answer_room(base, asked))
    found = measure(base, asked)
    for a, answer, result in zip(asked, said, found.results, strict=True):
        assert (result.asked, result.answer, result.opened) == (a, answer.text, None)
        assert (result.outcome, result.several) == outcome_of(answer.text, a.candidates)
        with torch.no_grad():
            told, without = (
                base.model(input_ids=torch.tensor([encode_prompt(base.tokenizer, text)]))
                .logits[0, -1]
                .softmax(-1)
                for text in (a.row.prompt, a.row.question)
            )
        wanted = first_token(base, a.row.prompt, a.wanted)
        assert result.first == outcome_of_token(base, a, int(told.argmax()))
        assert result.utilisation == pytest.approx(
            context_utilisation(float(without[wanted]), float(told[wanted])), abs=1e-5
        )
    assert len(found.conflicting.results) == 6
    assert measure(base, []) == Measured()


def test_another_way_to_answer_is_judged_by_its_words_alone(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    asked = with_memory(base, some_rows())
    found = measure(base, asked, ask=lambda rows, room: [Answer(a.wanted, True) for a in rows])
    assert found.binary_utilisation.value == 1.0
    assert found.first_token_rates.memory.n == 0
    assert found.utilisation != found.utilisation, "nothing was plainly decoded"


def test_groups_part_the_rows_by_name(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    found = measure(base, with_memory(base, some_rows()))
    groups = found.by(lambda a: a.row.kind)
    assert list(groups) == ["coherent", "gold", "irrelevant", "substitution"]
    assert sum(len(part.results) for part in groups.values()) == len(found.results)
    assert found.by(lambda a: a.row.relation).keys() == {"Kenya", "Spain", "Italy"}
    assert found.by(lambda a: None) == {}
