"""The contract of scope signals, kept by signals of every kind.

One reads the forward that answers, one runs forwards of its own on other text, one asks a model of
its own; all come from another package. Each works in every method that is routed by scope.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_edits import FACTS, FRANCE, FRANCE_AGAIN, SETTINGS, edit, reopened

from editors import EditorError, FactClosure
from editors.inference.edited_model import EditedModel
from editors.inference.generation import answers
from editors.inference.next_tokens import digests
from editors.scope.registry import SIGNALS

MethodOf = Callable[..., Any]
TOYS = ["toy-reading", "toy-asking", "toy-encoder"]
ROUTED = ["wise", "in-context"]
OWN = ["key", "relation", "sentence"]
OTHERS = ["Ann plays the", "the capital of Kenya is", "who lives in Rome ?"]
NEAR = ["the sea of France is", "who lives in Peru ?"]  # a random base cannot tell them apart


@pytest.fixture(
    params=[(name, signal) for name in ROUTED for signal in [*OWN, *TOYS]],
    ids="-".join,
)
def edited(
    request: pytest.FixtureRequest,
    tiny_method: MethodOf,
    toy_package: Path,
    sentence_encoder: Path,
) -> Iterator[tuple[Any, Any]]:
    """A method scoped by one signal, and its state after four facts."""
    name, signal = request.param
    scope = {"scope": signal, "encoder": str(sentence_encoder)}
    method = tiny_method(name, settings={**SETTINGS[name], **scope})
    return method, edit(method, FACTS).state


def test_signals_of_other_packages_are_found(toy_package: Path) -> None:
    assert set(SIGNALS.names()) == {*OWN, *TOYS}
    assert all(SIGNALS.load(name).name == name for name in SIGNALS.names())


def test_an_unknown_signal_is_refused_where_a_store_is_made(tiny_method: MethodOf) -> None:
    method = tiny_method("in-context", settings={"scope": "kye"})
    with pytest.raises(EditorError, match="no scope signal is called 'kye'") as error:
        edit(method, [])
    assert "'key'" in error.value.hint


def test_facts_claim_their_prompts_and_no_others(edited: tuple[Any, Any]) -> None:
    method, state = edited
    prompts = [fact.prompt for fact in FACTS]
    others = OTHERS if method.settings.scope in OWN else [*OTHERS, *NEAR]
    unedited = EditedModel.unedited(method.base)
    before, digests_before = answers(unedited, others, 4), digests(unedited, others)
    with method.attach(state) as model:
        claimed = [answer.decision for answer in answers(model, prompts, 4)]
        after = answers(model, others, 4)
        assert digests(model, others) == digests_before
    assert [decision.fact for decision in claimed] == [fact.id for fact in FACTS]
    assert all(decision.opened and decision.score > decision.threshold for decision in claimed)
    assert [answer.text for answer in after] == [answer.text for answer in before]
    assert not any(answer.decision.opened for answer in after)


def test_a_decision_is_explained_by_its_signal(edited: tuple[Any, Any]) -> None:
    method, state = edited
    with method.attach(state) as model:
        [answer] = answers(model, [FRANCE.prompt], 4)
    sentence, _ = method.explain(answer.decision, state)
    assert FRANCE.id in sentence
    signal = method.settings.scope
    assert ("score" if signal in OWN else f"{signal} says score") in sentence


@pytest.mark.parametrize("signal", [*OWN, *TOYS])
def test_a_signal_decides_without_the_weights_of_the_base_or_says_that_it_needs_them(
    tiny_method: MethodOf, toy_package: Path, sentence_encoder: Path, signal: str
) -> None:
    settings = {**SETTINGS["in-context"], "scope": signal, "encoder": str(sentence_encoder)}
    method = tiny_method("in-context", settings=settings)
    state = edit(method, FACTS).state
    outline = replace(method.base, model=deepcopy(method.base.model).to("meta"))
    bare = type(method)(outline, method.settings, method.seed)
    if SIGNALS.load(signal).needs_base:
        with pytest.raises(EditorError, match="needs the weights of the base"):
            bare.served_elsewhere(state)
        return
    prompts = [*(fact.prompt for fact in FACTS), *OTHERS]
    elsewhere = bare.served_elsewhere(state)
    assert elsewhere.adapters == ()
    with method.attach(state) as model:
        here = model.rewritten(prompts)
    for prompt, (rewritten, decision), there in zip(
        prompts, here, elsewhere.dispatcher(prompts), strict=True
    ):
        assert there.decision == decision
        assert (prompt if there.text is None else there.text) == rewritten


def test_a_closed_fact_claims_nothing_any_more(edited: tuple[Any, Any]) -> None:
    method, state = edited
    [before] = answers(EditedModel.unedited(method.base), [FRANCE.prompt], 4)
    with method.attach(state.closing({FRANCE.id: FactClosure("undone")})) as model:
        [answer] = answers(model, [FRANCE.prompt], 4)
    assert answer.text == before.text
    assert (answer.decision.fact, answer.decision.opened) == (FRANCE.id, False)


def test_a_fact_takes_over_the_prompts_of_the_one_it_supersedes(edited: tuple[Any, Any]) -> None:
    method, state = edited
    with method.attach(edit(method, [FRANCE_AGAIN], state).state) as model:
        [answer] = answers(model, [FRANCE.prompt], 4)
    assert answer.decision.fact == FRANCE_AGAIN.id


def test_what_a_signal_knows_is_saved_and_opened(edited: tuple[Any, Any]) -> None:
    method, state = edited
    again = reopened(method, state)
    assert method.save(again) == method.save(state)
    prompts = [*(fact.prompt for fact in FACTS), *OTHERS]
    with method.attach(state) as model:
        first = answers(model, prompts, 4)
    with method.attach(again) as model:
        assert answers(model, prompts, 4) == first


@pytest.mark.parametrize("signal", TOYS)
def test_forwards_of_a_signal_s_own_are_not_routed(
    tiny_method: MethodOf, toy_package: Path, signal: str
) -> None:
    """A signal may run the model while a prompt is decided: the base answers it, unnoticed."""
    method = tiny_method("wise", settings={**SETTINGS["wise"], "scope": signal})
    state = edit(method, FACTS).state
    prompts = [fact.prompt for fact in FACTS]
    with method.attach(state) as model, model.noting() as calls:
        answers(model, prompts, 4)
    assert sum(len(call.prompts) for call in calls) == len(prompts)
    before = {name: tensor.clone() for name, tensor in method.base.model.state_dict().items()}
    assert all(torch.equal(before[k], v) for k, v in method.base.model.state_dict().items())
