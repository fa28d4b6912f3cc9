"""Conflicts: what each source answers, how answers are counted, and how a model is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_edits import FACTS, FRANCE, JAPAN, edit

from editors.conflicts.cases import Conflict, ConflictCase, Outcome, outcome_of
from editors.conflicts.measure import (
    ConflictResults,
    Rates,
    RowResult,
    candidate_tokens,
    context_utilisation,
    first_tokens,
    measure,
    memorization_ratio,
    with_edits,
    with_memory,
)
from editors.conflicts.replies import MIN_REPLY_TOKENS
from editors.inference.edited_model import EditedModel
from editors.inference.generation import Answer, answers
from editors.inference.next_tokens import likeliest
from editors.model.tokenization import encode_prompt

BaseOf = Callable[..., Any]
ROW: dict[str, Any] = {
    "question": "the capital of France is",
    "context": "the capital of France is Lima .",
    "context_answer": "Lima",
}
KENYA = Conflict("the sea of Kenya is", "the sea of Kenya is red .", "red", subject="Kenya")


# --- counting ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("without", "informed", "wanted"),
    [(0.2, 0.6, 0.5), (0.6, 0.2, -2 / 3), (0.3, 0.3, 0.0), (1.0, 1.0, 0.0), (1.0, 0.0, -1.0)],
)
def test_utilisation_is_the_share_of_the_way_that_was_left(
    without: float, informed: float, wanted: float
) -> None:
    assert context_utilisation(without, informed) == pytest.approx(wanted)


def test_the_memorization_ratio_of_nothing_is_undefined() -> None:
    assert memorization_ratio(0.0, 0.0) is None
    assert memorization_ratio(0.0, 0.4) == 0.0
    assert memorization_ratio(0.3, 0.1) == pytest.approx(0.75)
    assert ConflictResults().memorization_ratio is None


@given(st.lists(st.sampled_from(["memory", "context", "before", "other"]), min_size=1, max_size=9))
def test_shares_of_outcomes_sum_to_one(outcomes: list[Outcome]) -> None:
    rates = Rates.of(outcomes)
    each = (rates.memory, rates.context, rates.other, rates.before)
    assert sum(rate.value for rate in each) == pytest.approx(1.0)
    assert all(rate.n == len(outcomes) for rate in each)


def test_what_counts_as_following_depends_on_the_kind_of_passage() -> None:
    def utilisation(kind: str, outcome: Outcome) -> float:
        row = Conflict(**ROW, kind=kind)  # type: ignore[arg-type]
        result = RowResult(ConflictCase(row, "Paris"), "", outcome, False)
        return ConflictResults((result,)).binary_utilisation.value

    right = {
        "substitution": {"context"},
        "coherent": {"context"},
        "gold": {"context", "memory"},
        "irrelevant": {"memory"},
    }
    for kind, outcomes in right.items():
        for outcome in ("memory", "context", "other"):
            assert utilisation(kind, outcome) == float(outcome in outcomes)  # type: ignore[arg-type]


# --- memory answers -----------------------------------------------------------------------------


def test_a_memory_answer_that_is_given_is_not_elicited(
    tiny_base: BaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_question = {
        "a": Answer("Paris. And so on", False),
        "b": Answer("one two three four five six", False),
        "c": Answer("one two three. Four five six", True),
        "d": Answer("", True),
    }
    elicited: list[str] = []

    def written(model: Any, prompts: Sequence[str], *_: Any) -> list[tuple[Answer, None]]:
        elicited.extend(prompts)
        return [(by_question[prompt], None) for prompt in prompts]

    monkeypatch.setattr("editors.conflicts.measure.begun_answers", written)
    rows = [Conflict(question, "x", "y") for question in ("a", "b", "a", "c", "d")]
    rows.append(Conflict("e", "x", "y", memory_answer="given"))
    cases = with_memory(tiny_base("llama"), rows)
    assert [case.row.question for case in cases] == ["a", "b", "a", "c", "e"], "no answer, no row"
    assert [case.memory for case in cases] == [
        "Paris",
        "one two three four five",
        "Paris",
        "one two three. Four five six",
        "given",
    ]
    assert sorted(elicited) == ["a", "b", "c", "d"], "each question once"


def test_an_elicited_answer_begins_as_the_model_does(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    model = EditedModel.unedited(base)
    [case] = with_memory(base, [KENYA])
    [answer] = answers(model, [KENYA.question], 16)
    assert answer.text.startswith(case.memory)
    assert first_tokens(base, [(KENYA.question, case.memory)]) == likeliest(model, [KENYA.question])
    assert outcome_of(answer.text, case.candidates)[0] == "memory"


# --- with edits ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["wise", "in-context"])
def method(request: pytest.FixtureRequest, tiny_method: Callable[..., Any]) -> Any:
    """A method that says which fact answers."""
    return tiny_method(request.param)


@pytest.fixture(scope="module")
def edits(method: Any) -> Any:
    return edit(method, FACTS).state


def france(context_answer: str, kind: str = "substitution") -> ConflictCase:
    """A case about the edit of France; the base is taken to say Paris."""
    passage = f"the capital of France is {context_answer or 'far'} ."
    return ConflictCase(
        Conflict(FRANCE.prompt, passage, context_answer, kind=kind),  # type: ignore[arg-type]
        "Paris",
    )


def edited_cases(method: Any, edits: Any, cases: Sequence[ConflictCase]) -> list[ConflictCase]:
    with method.attach(edits) as model:
        return with_edits(model, cases, {fact.id: fact for fact in edits.in_force()})


def test_an_edit_is_memory_and_the_base_s_answer_is_what_was_before(
    method: Any, edits: Any
) -> None:
    [before] = with_memory(method.base, [france("Lima").row])
    [case] = edited_cases(method, edits, [before])
    assert (case.memory, case.fact) == (FRANCE.target, FRANCE.id)
    assert case.pre_edit_answer == before.memory
    assert before.memory != FRANCE.target
    assert case.candidates == {"memory": "Rome", "context": "Lima", "before": before.memory}


def test_rows_about_nothing_that_is_edited_stay_as_they_are(method: Any, edits: Any) -> None:
    cases = with_memory(method.base, [KENYA])
    assert edited_cases(method, edits, cases) == cases
    with method.attach(edits) as model:
        others = {fact.id: fact for fact in (JAPAN,)}
        [case] = with_edits(model, [france("Lima")], others)
    assert (case.memory, case.fact) == ("Paris", None), "an edit that is not in force"


def test_where_nothing_decides_only_the_edited_prompt_itself_is_about_the_edit(
    tiny_method: Callable[..., Any],
) -> None:
    method = tiny_method("ft-m")  # always on
    state = edit(method, [FRANCE]).state
    case = france("Lima")
    with method.attach(state) as model:
        [edited] = with_edits(model, [case], {FRANCE.id: FRANCE})
        assert (edited.fact, edited.memory) == (FRANCE.id, FRANCE.target)
        other = ConflictCase(Conflict("what is the sea of France ?", "it is red .", "red"), "blue")
        assert with_edits(model, [other], {FRANCE.id: FRANCE}) == [other]
        [result] = measure(model, [edited]).results
    assert result.opened is None


def test_a_question_near_an_edit_that_does_not_claim_it_is_not_about_it(
    method: Any, edits: Any
) -> None:
    questions = [f"the {what} of France is" for what in ("sea", "river", "leader", "mountain")]
    with method.attach(edits) as model:
        decided = {
            q: a.decision for q, a in zip(questions, answers(model, questions, 1), strict=True)
        }
    unclaimed = [question for question, decision in decided.items() if not decision.opened]
    assert any(decided[question].fact == FRANCE.id for question in unclaimed), "named and too far"
    rows = [Conflict(question, "it is red .", "red") for question in unclaimed]
    cases = with_memory(method.base, rows)
    assert edited_cases(method, edits, cases) == cases


def test_a_passage_that_says_what_memory_says_is_left_out_but_for_edits(
    method: Any, edits: Any
) -> None:
    [kenya] = with_memory(method.base, [KENYA])
    agreeing = replace(KENYA, context_answer=kenya.memory.upper())
    gold = replace(agreeing, kind="gold")
    known = [*with_memory(method.base, [agreeing, gold]), france("Rome")]
    cases = edited_cases(method, edits, known)
    assert [case.row.kind for case in cases] == ["gold", "substitution"]
    assert not any(case.conflicting for case in cases), "the passage says what the edit says"


STATES = {
    "no claim": ("", "irrelevant"),
    "agrees": ("Rome", "substitution"),
    "stale": ("Paris", "substitution"),
    "third": ("Lima", "substitution"),
}


def test_the_four_outcomes_under_the_four_states(method: Any, edits: Any) -> None:
    """The edit, the passage, the answer before the edit, or another."""
    cases = edited_cases(method, edits, [france(*state) for state in STATES.values()])
    assert [case.conflicting for case in cases] == [False, False, True, True]
    outcomes = {}
    for text in ("Rome", "Lima", "Paris", "Oslo"):
        with method.attach(edits) as model:
            results = measure(
                model, cases, lambda cases, _, text=text: [Answer(text, True)] * len(cases)
            )
        outcomes[text] = [result.outcome for result in results.results]
        assert len(results.edited.results) == 4
    assert outcomes == {
        "Rome": ["memory"] * 4,
        "Lima": ["other", "other", "other", "context"],
        "Paris": ["before", "before", "context", "before"],
        "Oslo": ["other"] * 4,
    }


def test_an_edited_model_answers_edited_questions_by_the_edit_and_others_as_before(
    tiny_wise: Callable[..., Any],
) -> None:
    method = tiny_wise()
    edits = edit(method, FACTS).state
    rows = [Conflict(fact.prompt, "Ann works .", kind="irrelevant") for fact in FACTS]
    about_edits = edited_cases(method, edits, with_memory(method.base, rows))
    assert [case.fact for case in about_edits] == [fact.id for fact in FACTS]
    kenya = with_memory(method.base, [KENYA])
    with method.attach(edits) as model:
        edited = measure(
            model,
            about_edits,
            lambda cases, _: answers(model, [case.row.question for case in cases], 6),
        )
        elsewhere = measure(model, kenya)
    assert [result.outcome for result in edited.results] == ["memory"] * len(FACTS)
    assert [result.opened for result in edited.results] == [True] * len(FACTS)
    plain = measure(EditedModel.unedited(method.base), kenya)
    assert [result.opened for result in elsewhere.results] == [False]
    assert [replace(result, opened=None) for result in elsewhere.results] == list(plain.results)


# --- measuring --------------------------------------------------------------------------------


def some_rows() -> list[Conflict]:
    """One of each kind for three subjects."""
    claims = [("Kenya", "red"), ("Spain", "Rome"), ("Italy", "Oslo")]
    return [
        Conflict(
            f"the sea of {subject} is",
            f"the sea of {subject} is {answer} ." + " Ann works ." * n,
            "" if kind == "irrelevant" else answer,
            "w92" if kind == "gold" else None,
            subject,
            kind=kind,  # type: ignore[arg-type]
        )
        for subject, answer in claims
        for n, kind in enumerate(("substitution", "coherent", "gold", "irrelevant"))
    ]


def test_without_anything_attached_greedy_answers_are_judged(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    model, cases = EditedModel.unedited(base), with_memory(base, some_rows())
    greedy = answers(model, [case.row.prompt for case in cases], MIN_REPLY_TOKENS)
    results = measure(model, cases)
    for case, answer, result in zip(cases, greedy, results.results, strict=True):
        assert (result.case, result.opened) == (case, None)
        assert answer.text.startswith(result.answer), "it ends after the words that are searched"
        assert (result.outcome, result.several) == outcome_of(answer.text, case.candidates)
        with torch.no_grad():
            informed, alone = (
                base.model(input_ids=torch.tensor([encode_prompt(base.tokenizer, text)]))
                .logits[0, -1]
                .softmax(-1)
                for text in (case.row.prompt, case.row.question)
            )
        [right] = first_tokens(base, [(case.row.prompt, case.right_answer)])
        [outcomes] = candidate_tokens(base, [case])
        assert result.first == outcomes.get(int(informed.argmax()), "other")
        assert result.utilisation == pytest.approx(
            context_utilisation(float(alone[right]), float(informed[right])), abs=1e-5
        )
    assert len(results.conflicting.results) == 6
    assert measure(model, []) == ConflictResults()


def test_a_first_token_stands_for_the_first_candidate_that_begins_with_it(
    tiny_base: BaseOf,
) -> None:
    base = tiny_base("llama")
    row = Conflict("the sea of Kenya is", "it is red .", "red Oslo")
    case = ConflictCase(row, "red", fact="id", pre_edit_answer="blue")
    red, blue = base.tokenizer.convert_tokens_to_ids(["red", "blue"])
    other = replace(case, memory="green")
    green = base.tokenizer.convert_tokens_to_ids("green")
    assert candidate_tokens(base, [case, other]) == [
        {red: "memory", blue: "before"},
        {green: "memory", red: "context", blue: "before"},
    ]


def test_another_way_to_answer_is_judged_by_its_words_alone(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    cases = with_memory(base, some_rows())
    results = measure(
        EditedModel.unedited(base),
        cases,
        lambda cases, _: [Answer(case.right_answer, True) for case in cases],
    )
    assert results.binary_utilisation.value == 1.0
    assert results.first_token_rates.memory.n == 0
    assert math.isnan(results.utilisation), "nothing was plainly decoded"


def test_groups_part_the_rows_by_name(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    results = measure(EditedModel.unedited(base), with_memory(base, some_rows()))
    groups = results.by(lambda case: case.row.kind)
    assert list(groups) == ["coherent", "gold", "irrelevant", "substitution"]
    assert sum(len(part.results) for part in groups.values()) == len(results.results)
    assert results.by(lambda case: case.row.relation).keys() == {"Kenya", "Spain", "Italy"}
    assert results.by(lambda case: None) == {}
