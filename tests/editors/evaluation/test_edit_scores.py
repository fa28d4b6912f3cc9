"""Checks: every score comes from answers a user would read, on rates that are known by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_edits import FRANCE, FRANCE_AGAIN, JAPAN, PAPER, PERU, edit, no_edits

from editors import Fact, Probe
from editors.evaluation.edit_scores import Scores, check
from editors.evaluation.metrics import normalised
from editors.inference.generation import answers

Wises = Callable[..., Any]
FAR = ("who plays the piano ?", "the sea and the mountain", "Ann wrote a")


def scored(method: Any, state: Any, facts: Any, **kinds: Any) -> Scores:
    return check(method.base, lambda: method.attach(state), facts, **kinds)


@pytest.fixture(scope="module")
def edited(tiny_wise: Wises) -> tuple[Any, Any, list[Fact]]:
    """Three edits, each with one far probe that names no subject."""
    method = tiny_wise("llama")
    facts = [
        replace(fact, locality=(Probe(far, kind="far"),), ground_truth="Paris")
        for fact, far in zip((FRANCE, JAPAN, PERU), FAR, strict=True)
    ]
    return method, edit(method, facts).state, facts


def test_edits_that_are_answered_count_as_reliable(edited: Any) -> None:
    method, state, facts = edited
    scores = scored(method, state, facts)
    assert scores.facts == 3
    assert (scores.reliability.value, scores.reliability.n) == (1.0, 3)
    assert [s.id for s in scores.per_fact] == [fact.id for fact in facts]
    assert [normalised(s.answer) for s in scores.per_fact] == [
        normalised(fact.target) for fact in facts
    ]
    assert [band.reliability for band in scores.retention] == [1.0, 1.0, 1.0]
    assert (scores.old_answers.value, scores.old_answers.n) == (0.0, 3)
    assert scores.opened_in_scope.value == 1.0
    assert scores.teacher_forced is not None
    assert scores.teacher_forced.reliability.value == 1.0


def test_prompts_that_stay_on_main_are_local_and_bit_identical(edited: Any) -> None:
    method, state, facts = edited
    scores = scored(method, state, facts)
    for rate in (scores.far, scores.locality, scores.identical):
        assert (rate.value, rate.n) == (1.0, 3)
    assert scores.opened_out_of_scope.value == 0.0
    assert scores.near.n == 0
    assert math.isnan(scores.near.value)


def test_without_edits_only_locality_holds(edited: Any) -> None:
    method, _, facts = edited
    scores = scored(method, no_edits(method), facts)
    assert scores.reliability.value == 0.0
    assert scores.opened_in_scope.value == 0.0
    assert scores.identical.value == scores.locality.value == 1.0
    assert not any(s.reliable for s in scores.per_fact)


def test_a_fact_that_another_superseded_fails_its_check(tiny_wise: Wises) -> None:
    method = tiny_wise("llama")
    state = edit(method, [FRANCE, JAPAN, FRANCE_AGAIN]).state
    scores = scored(method, state, [FRANCE, JAPAN, FRANCE_AGAIN])
    assert [s.reliable for s in scores.per_fact] == [False, True, True]
    assert scores.reliability.value == pytest.approx(2 / 3)
    assert scores.opened_in_scope.value == pytest.approx(2 / 3), "by its own fact, not another"


def test_a_changed_neighbour_is_not_local(edited: Any) -> None:
    """A neighbour is here another fact's own prompt, so that it is sure to change."""
    method, state, facts = edited
    probed = replace(facts[0], locality=(Probe(JAPAN.prompt, kind="near"), Probe(FAR[0])))
    scores = scored(method, state, [probed])
    assert scores.near.value == 0.0
    assert scores.far.value == 1.0
    assert scores.locality.value == scores.identical.value == 0.5
    assert scores.opened_out_of_scope.value == 0.5


def test_portability_asks_for_an_answer_after_the_edit(edited: Any) -> None:
    method, state, facts = edited
    probes = (Probe(JAPAN.prompt, JAPAN.target), Probe(PERU.prompt, "something else"))
    scores = scored(method, state, [replace(facts[0], portability=probes)])
    assert (scores.portability.value, scores.portability.n) == (0.5, 2)


def test_prompts_that_the_tokenizer_cannot_tell_apart_are_both_scored(edited: Any) -> None:
    method, state, facts = edited
    spaced = replace(facts[0], rephrases=(FRANCE.prompt.replace(" ", "  "),))
    scores = scored(method, state, [spaced])
    assert (scores.generalization.value, scores.generalization.n) == (1.0, 1)
    assert (scores.opened_in_scope.value, scores.opened_in_scope.n) == (1.0, 2)


def test_teacher_forced_columns_may_be_left_out(edited: Any) -> None:
    method, state, facts = edited
    stages: list[str] = []
    scores = scored(method, state, facts, teacher_forced=False, on_stage=stages.append)
    assert scores.teacher_forced is None
    assert stages == ["base answers", "edited answers", "logits"]


def test_teacher_forcing_routes_by_the_prompt_alone(tiny_wise: Wises) -> None:
    """With gold tokens in sight of the router the paper's threshold would be met more often."""
    method = tiny_wise("llama", {**PAPER, "max_steps": 4})
    facts = [FRANCE, JAPAN, PERU]
    state = edit(method, facts).state
    scores = scored(method, state, facts)
    assert scores.teacher_forced is not None
    with method.attach(state) as here:
        routes = []
        for fact in facts:
            answers(method.base, [fact.prompt], 1)
            routes += [decision.opened for decision in here.decisions]
    assert scores.opened_in_scope.value == pytest.approx(sum(routes) / 3)


def test_checking_changes_nothing_and_gives_the_same_twice(edited: Any) -> None:
    method, state, facts = edited
    blobs = state.to_blobs()
    tensors = {k: v.clone() for k, v in method.base.model.state_dict().items()}
    probed = [replace(fact, locality=(*fact.locality, Probe(PERU.prompt))) for fact in facts]
    one, two = (scored(method, state, probed) for _ in range(2))
    assert repr(one) == repr(two)  # as text: rates of nothing are NaN
    assert state.to_blobs() == blobs
    after = method.base.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in tensors.items())


def test_no_facts_have_no_scores(edited: Any) -> None:
    method, state, _ = edited
    scores = scored(method, state, [])
    assert scores.facts == 0
    assert math.isnan(scores.reliability.value)
    assert scores.retention == ()
