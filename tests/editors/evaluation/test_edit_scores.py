"""Scores of edits: each comes from answers a user would read, on rates that are known by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_edits import FRANCE, FRANCE_AGAIN, JAPAN, PAPER, PERU, edit, no_edits

from editors import Fact, Probe
from editors.evaluation.edit_scores import SENTENCE_TOKENS, EditScores, score_edits
from editors.evaluation.sentences import sentences
from editors.facts import NEAR_KINDS
from editors.inference.edited_model import EditedModel
from editors.inference.generation import answers
from editors.model.tokenization import encode_prompt
from editors.text_matching import normalised

MethodOf = Callable[..., Any]
FAR = ("who plays the piano ?", "the sea and the mountain", "Ann wrote a")


def scored(method: Any, state: Any, facts: Any, **kinds: Any) -> EditScores:
    return score_edits(method.base, lambda: method.attach(state), facts, **kinds)


@pytest.fixture(scope="module")
def edited(tiny_wise: MethodOf) -> tuple[Any, Any, list[Fact]]:
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


def test_a_fact_that_another_superseded_fails_its_check(tiny_wise: MethodOf) -> None:
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


def test_near_locality_is_the_sum_of_its_kinds(edited: Any) -> None:
    """Of the probes that say how they are near, and of those that do not."""
    method, state, facts = edited
    changed = (JAPAN.prompt, PERU.prompt)
    kinds = ("relation", "subject", "subject", "name", "near", "near")
    probes = [
        Probe(prompt, kind=kind)
        for prompt, kind in zip((changed[0], *FAR, *changed), kinds, strict=True)
    ]
    probed = replace(facts[0], locality=(*probes, Probe(changed[0])))
    scores = scored(method, state, [probed])
    assert {kind: (rate.value, rate.n) for kind, rate in scores.kinds.items() if rate.n} == {
        "relation": (0.0, 1),
        "subject": (1.0, 2),
        "name": (1.0, 1),
    }
    assert (scores.near.value, scores.near.n) == (0.5, 6)
    assert set(scores.kinds) == set(NEAR_KINDS)
    told = [rate for rate in scores.kinds.values() if rate.n]
    assert sum(rate.value * rate.n for rate in told) == scores.near.value * scores.near.n
    assert (scores.far.value, scores.locality.value) == (0.0, pytest.approx(3 / 7))
    assert scores.per_fact[0].near == (False, True, True, True, False, False)


@pytest.mark.parametrize(
    ("headline", "right"), [(None, True), ("exact", False), ("starts", True), ("said", True)]
)
def test_the_headline_is_one_of_the_readings(edited: Any, headline: Any, right: bool) -> None:
    """Peru's answer is "blue Oslo": it starts with "blue", and says "Oslo" where that is old."""
    method, state, _ = edited
    asked = replace(PERU, target="blue", rephrases=(PERU.prompt,), ground_truth="Lima", id="")
    chosen = {} if headline is None else {"headline": headline}
    scores = scored(method, state, [asked], **chosen)
    for targets, reading in zip(scores.readings.values(), scores.readings, strict=True):
        assert targets.reliability.value == targets.generalization.value == (reading != "exact")
    assert scores.reliability.value == scores.generalization.value == right
    assert (scores.per_fact[0].reliable, scores.per_fact[0].rephrases) == (right, (right,))
    assert scores.retention[0].reliability == right
    assert scores.old_answers.value == 0.0


def test_an_answer_is_still_the_old_one_when_it_is_read_as_that(edited: Any) -> None:
    method, state, _ = edited
    asked = replace(PERU, target="Lima", ground_truth="blue", id="")
    for headline, old in (("exact", 0.0), ("starts", 1.0), ("said", 1.0)):
        scores = scored(method, state, [asked], headline=headline)
        assert (scores.reliability.value, scores.old_answers.value) == (0.0, old)


def test_an_answer_has_room_for_a_sentence_that_leads_to_the_target(edited: Any) -> None:
    """A tiny model goes on and on; what its first sentence says late counts, too."""
    method = edited[0]
    [answer] = answers(EditedModel.unedited(method.base), ["the sea"], SENTENCE_TOKENS)
    words = sentences(answer.text)[0].split()
    late = max(words, key=words.index)
    assert words.index(late) > 8
    scores = scored(method, no_edits(method), [Fact("the sea", late)])
    assert scores.readings["said"].reliability.value == 1.0
    assert scores.readings["starts"].reliability.value == 0.0


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


def test_teacher_forcing_routes_by_the_prompt_alone(tiny_wise: MethodOf) -> None:
    """With gold tokens in sight of the router the paper's threshold would be met more often."""
    method = tiny_wise("llama", {**PAPER, "max_steps": 4})
    facts = [FRANCE, JAPAN, PERU]
    state = edit(method, facts).state
    forced: list[Any] = []

    @contextmanager
    def attach() -> Iterator[Any]:
        with method.attach(state) as model, model.noting() as calls:
            yield model
        forced.extend(calls)  # what is answered notes its own calls

    scores = score_edits(method.base, attach, facts)
    with method.attach(state) as model:
        given = answers(model, [fact.prompt for fact in facts], 1)
    claimed = [bool(answer.decision and answer.decision.opened) for answer in given]
    assert scores.opened_in_scope.value == pytest.approx(sum(claimed) / 3)
    prompts = [encode_prompt(method.base.tokenizer, fact.prompt) for fact in facts]
    opened = {
        prompt: decision.opened
        for call in forced
        for prompt, decision in zip(call.prompts, call.decisions, strict=True)
    }
    assert opened == dict(zip(prompts, claimed, strict=True))


def test_scoring_changes_nothing_and_gives_the_same_twice(edited: Any) -> None:
    method, state, facts = edited
    blobs = method.save(state)
    tensors = {k: v.clone() for k, v in method.base.model.state_dict().items()}
    probed = [replace(fact, locality=(*fact.locality, Probe(PERU.prompt))) for fact in facts]
    one, two = (scored(method, state, probed) for _ in range(2))
    assert repr(one) == repr(two)  # as text: rates of nothing are NaN
    assert method.save(state) == blobs
    after = method.base.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in tensors.items())


def test_where_edits_are_always_on_nothing_is_claimed_and_nothing_is_identical(
    tiny_method: MethodOf, edited: Any
) -> None:
    method, facts = tiny_method("ft-m"), edited[2]
    scores = scored(method, edit(method, facts).state, facts)
    assert (scores.reliability.value, scores.old_answers.value) == (1.0, 0.0)
    for rate in (scores.opened_in_scope, scores.opened_out_of_scope):
        assert rate.n == 0
        assert math.isnan(rate.value)
    assert (scores.identical.value, scores.identical.n) == (0.0, 3)
    assert scores.teacher_forced is not None
    assert scores.teacher_forced.reliability.value == 1.0


def test_a_prompt_that_is_rewritten_is_claimed_and_scored_as_it_was_asked(
    tiny_method: MethodOf, edited: Any
) -> None:
    """A random model does not read the fact that is put before the prompt."""
    method, facts = tiny_method("in-context"), edited[2]
    scores = scored(method, edit(method, facts).state, facts)
    assert (scores.opened_in_scope.value, scores.opened_in_scope.n) == (1.0, 3)
    assert scores.opened_out_of_scope.value == 0.0
    assert scores.identical.value == scores.locality.value == 1.0
    assert scores.teacher_forced is not None
    assert (scores.teacher_forced.reliability.n, scores.teacher_forced.locality.value) == (3, 1.0)
    assert [score.id for score in scores.per_fact] == [fact.id for fact in facts]


def test_no_facts_have_no_scores(edited: Any) -> None:
    method, state, _ = edited
    scores = scored(method, state, [])
    assert scores.reliability.n == 0
    assert math.isnan(scores.reliability.value)
    assert scores.retention == ()
