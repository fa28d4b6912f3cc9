"""Scope by keys: who is named, whose own prompts are claimed, and what cannot move a decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_edits import FACTS, corpus, edit, no_edits

from editors import Fact, FactClosure
from editors.heads.pruning import Head, HeadMask, HeadPruning
from editors.inference.decisions import Decision
from editors.model.tokenization import Row, encode_prompt
from editors.scope.corpus import Corpus
from editors.scope.key.calibration import Calibration
from editors.scope.key.questions import SUBJECT
from editors.scope.phrasings import Phrasings

Wises = Callable[..., Any]


@pytest.fixture(scope="module")
def edited(tiny_wise: Wises) -> tuple[Any, Any]:
    method = tiny_wise("llama")
    return method, edit(method, FACTS).state


def calibration_of(state: Any) -> Calibration:
    return Calibration(state.payload.scope.calibration)


def lenient(state: Any) -> Any:
    """``state`` with a threshold for prompts that name the subject which all of them pass."""
    scope = state.payload.scope
    _, unnamed, same = scope.calibration["thresholds"].tolist()
    thresholds = torch.tensor([-1.0, unnamed, same])
    scope = replace(scope, calibration={**scope.calibration, "thresholds": thresholds})
    return replace(state, payload=replace(state.payload, scope=scope))


def decide(edited: tuple[Any, Any], texts: list[str]) -> list[Decision]:
    """What is decided of each text, each in a forward of its own."""
    method, state = edited
    found: list[Decision] = []
    with method.attach(state) as model, torch.no_grad():
        for text in texts:
            ids = torch.tensor([encode_prompt(method.base.tokenizer, text)])
            with model.noting() as calls:
                method.base.model(input_ids=ids)
            found += model.decisions(calls)
    return found


def test_the_prompt_of_a_fact_opens_its_own_shard(edited: tuple[Any, Any]) -> None:
    _, state = edited
    for fact, decision in zip(FACTS, decide(edited, [f.prompt for f in FACTS]), strict=True):
        assert decision.opened
        assert decision.fact == fact.id
        assert decision.memory == state.payload.shard_of()[fact.id]
        assert decision.score > decision.threshold


def test_a_fact_claims_its_prompt_under_an_alias_and_no_longer_name(tiny_wise: Wises) -> None:
    method = tiny_wise("llama")
    fact = replace(FACTS[0], aliases=("Spain",))
    state = lenient(edit(method, [fact]).state)
    texts = ["the capital of Spain is", "the capital of spain is", "the capital of Spain Kenya is"]
    assert [d.opened for d in decide((method, state), texts)] == [True, False, False]


def test_a_prompt_that_names_no_subject_stays_on_main(edited: tuple[Any, Any]) -> None:
    others = ["the capital of Spain is", "who plays the piano ?", "the river of Kenya is", "red"]
    assert not any(decision.opened for decision in decide(edited, others))


def test_a_fact_without_a_subject_opens_for_its_own_prompt(tiny_wise: Wises) -> None:
    method = tiny_wise("llama")
    fact = Fact("who speaks Italian in Rome ?", "Eva")
    state = edit(method, [fact]).state
    assert decide((method, state), [fact.prompt])[0].fact == fact.id


def test_a_closed_fact_still_claims_its_prompts_and_leaves_them_to_the_base(
    edited: tuple[Any, Any],
) -> None:
    """Else the fact that is nearest to it would answer them."""
    method, state = edited
    texts = [f"Ann wrote , {FACTS[0].prompt}", FACTS[0].prompt]
    before = decide((method, lenient(state)), texts)
    assert all(decision.opened for decision in before)
    closed = lenient(state.closing({FACTS[0].id: FactClosure("undone")}))
    after = decide((method, closed), texts)
    assert after == [replace(decision, memory=-1) for decision in before]


def test_deciding_together_is_deciding_alone(edited: tuple[Any, Any]) -> None:
    texts = [f.prompt for f in FACTS] + ["of Peru", "France is a country in", "the sea", "Japan"]
    method, state = edited
    alone = decide(edited, texts)
    encoded = [encode_prompt(method.base.tokenizer, text) for text in texts]
    for side in ("left", "right"):
        batch = method.base.batch([Row.of_prompt(ids) for ids in encoded], side=side)
        with method.attach(state) as model, torch.no_grad(), model.noting() as calls:
            method.base.model(input_ids=batch.ids, attention_mask=batch.mask)
        together = model.decisions(calls)
        assert [(d.memory, d.fact) for d in together] == [(d.memory, d.fact) for d in alone]
        assert [d.score for d in together] == pytest.approx([d.score for d in alone], abs=1e-4)


def test_the_signal_is_fitted_and_learns_the_same_way_twice(tiny_wise: Wises) -> None:
    one, two = (
        edit(method, FACTS[:2], method.start(corpus())).state.payload.scope
        for method in (tiny_wise("llama") for _ in range(2))
    )
    assert one.calibration.keys() == two.calibration.keys()
    assert all(torch.equal(one.calibration[n], two.calibration[n]) for n in one.calibration)
    assert list(one.keys) == list(two.keys) == [fact.id for fact in FACTS[:2]]
    for fact, keys in one.keys.items():
        assert keys.keys() == two.keys[fact].keys() == {"keys", "negatives"}
        assert all(torch.equal(keys[name], two.keys[fact][name]) for name in keys)


def test_other_questions_of_the_calibration_stay_on_main(edited: tuple[Any, Any]) -> None:
    """Put to an edit's subject they compete with the edit, unless they ask the same thing.

    With a threshold that all pass, so that nothing but a hard negative keeps a prompt out.
    """
    method, state = edited
    state = lenient(state)
    calibration, keys = calibration_of(state), state.payload.scope.keys
    assert len(calibration.templates.texts) == 6
    kept_out = 0
    assert sum(len(of_fact["negatives"]) for of_fact in keys.values()) > 0
    for fact in FACTS:
        of_fact = keys[fact.id]
        assert bool(((of_fact["negatives"] @ of_fact["keys"].T) < calibration.same).all())
        others = [t.replace(SUBJECT, str(fact.subject)) for t in calibration.templates.texts]
        decisions = decide((method, state), others)
        assert all(not d.opened or d.score >= calibration.same for d in decisions)
        kept_out += sum(not decision.opened for decision in decisions)
    assert kept_out > 0


def test_without_templates_thresholds_decide(tiny_wise: Wises) -> None:
    method = tiny_wise("llama")
    groups = [
        Phrasings(f"red {n}", (f"the {n} of red {n} is", f"what is the {n} of red {n} ?"))
        for n in ("sea", "city", "leader", "river", "capital", "language", "author", "one", "two")
    ]
    state = edit(method, FACTS, method.start(Corpus([*groups, *groups]))).state
    assert calibration_of(state).templates.texts == ()
    for fact, decision in zip(
        FACTS, decide((method, state), [f.prompt for f in FACTS]), strict=True
    ):
        assert decision.fact == fact.id
        assert decision.opened


def test_a_fact_without_a_subject_keeps_no_prompt_from_another(tiny_wise: Wises) -> None:
    method = tiny_wise("llama")
    prompts = [f"Ann wrote , {fact.prompt}" for fact in FACTS]
    more = [*FACTS, Fact("the sea is", "blue"), Fact("Ann wrote , the", "red")]
    alone = decide((method, lenient(edit(method, FACTS).state)), prompts)
    beside = decide((method, lenient(edit(method, more).state)), prompts)
    opened = [d.fact for d in alone if d.opened]
    assert opened
    assert [d.fact for d, before in zip(beside, alone, strict=True) if before.opened] == opened


def test_what_the_shards_hold_moves_no_decision(edited: tuple[Any, Any]) -> None:
    """Decisions are taken on the base."""
    method, state = edited
    texts = [f"Ann wrote , {fact.prompt}" for fact in FACTS] + [fact.prompt for fact in FACTS]
    louder = tuple(replace(shard, values=shard.values * 50) for shard in state.payload.shards)
    shouting = replace(state, payload=replace(state.payload, shards=louder))
    assert decide((method, shouting), texts) == decide(edited, texts)


def test_the_forward_that_answers_is_the_one_that_is_decided_by(edited: tuple[Any, Any]) -> None:
    """The base reads a prompt once. What is decided on the way is what a forward of the router's
    own decides, which is taken where heads are pruned."""
    method, state = edited
    texts = [f"Ann wrote , {fact.prompt}" for fact in FACTS] + ["the sea", FACTS[0].prompt]
    rows = [encode_prompt(method.base.tokenizer, text) for text in texts]
    batch = method.base.batch([Row.of_prompt(ids) for ids in rows])
    runs: list[bool] = []
    first = method.base.model.get_submodule(method.base.architecture.block(0).path)
    with method.attach(state) as model, torch.no_grad(), model.noting() as calls:
        hook = first.register_forward_hook(lambda *_: runs.append(True))
        method.base.model(input_ids=batch.ids, attention_mask=batch.mask)
        hook.remove()
    assert len(runs) == 1
    on_the_way = model.decisions(calls)
    mask = HeadMask((Head(2, 0),))
    pruned = replace(state, pruning=HeadPruning("memory", mask, state.edits))
    apart = decide((method, pruned), texts)
    assert [(d.memory, d.fact) for d in on_the_way] == [(d.memory, d.fact) for d in apart]
    for one, other in zip(on_the_way, apart, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-4)


def test_alike_facts_are_those_whose_prompts_the_base_takes_for_alike(tiny_wise: Wises) -> None:
    method = tiny_wise("llama")
    signal = method._scope.signal(no_edits(method).payload.scope)
    same = Fact(FACTS[0].prompt, "elsewhere", subject="France", variants=("the sea is",))
    own = signal.learn([FACTS[0], same, FACTS[1]]).own_keys
    one, again, other = (own[fact.id] for fact in (FACTS[0], same, FACTS[1]))
    assert signal.similarity(one, again) == pytest.approx(1)
    assert signal.similarity(one, other) == pytest.approx(signal.similarity(other, one))
    assert signal.similarity(one, other) < 0.99
