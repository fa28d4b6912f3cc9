"""A passage that is preferred: an edit yields to one that speaks of its fact, and to no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from tiny_edits import FACTS, edit

from editors.heads.pruning import HeadMask, HeadPruning
from editors.inference.decisions import Decision
from editors.inference.generation import answers

Wises = Callable[..., Any]


@pytest.fixture(scope="module", params=["wise", "in-context"])
def edited(tiny_method: Wises, request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """With a threshold for prompts that name the subject which all of them pass."""
    method = tiny_method(request.param)
    state = edit(method, FACTS).state
    payload = state.payload
    scope = payload.scope if request.param == "wise" else payload
    _, unnamed, same = scope.calibration["thresholds"].tolist()
    thresholds = torch.tensor([-1.0, unnamed, same])
    scope = replace(scope, calibration={**scope.calibration, "thresholds": thresholds})
    payload = replace(payload, scope=scope) if request.param == "wise" else scope
    return method, replace(state, payload=payload)


def decide(edited: tuple[Any, Any], texts: list[str], prefer: Any = None) -> list[Decision]:
    """What is decided of each text, with ``prefer`` as the source that is preferred."""
    method, state = edited
    pruning = prefer and HeadPruning(prefer, HeadMask(), state.edits)
    found = []
    with method.attach(replace(state, pruning=pruning)) as model:
        for text in texts:
            found.append(answers(model, [text], 1)[0].decision)
    assert None not in found
    return found


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.id)
def test_an_edit_yields_to_a_passage_that_speaks_of_its_fact(
    edited: tuple[Any, Any], fact: Any
) -> None:
    prompt = f"{fact.prompt} red . {fact.prompt}"
    [as_it_is] = decide(edited, [prompt])
    assert decide(edited, [prompt], "memory") == [as_it_is]
    [preferred] = decide(edited, [prompt], "context")
    assert preferred.yielded == as_it_is.opened
    assert preferred == replace(as_it_is, memory=-1, yielded=as_it_is.opened)


def test_some_edit_has_something_to_yield(edited: tuple[Any, Any]) -> None:
    prompts = [f"{fact.prompt} red . {fact.prompt}" for fact in FACTS]
    assert any(decision.yielded for decision in decide(edited, prompts, "context"))


def test_an_edit_yields_to_nothing_but_a_passage(edited: tuple[Any, Any]) -> None:
    """One mention of the subject is the question's own; another question's subject is another."""
    prompts = [fact.prompt for fact in FACTS]
    prompts += [f"the sea is red . {fact.prompt}" for fact in FACTS]
    prompts += [
        f"{other.prompt} red . {fact.prompt}"
        for fact, other in pairwise(FACTS)
        if other.subject != fact.subject
    ]
    as_it_is = decide(edited, prompts)
    assert any(decision.opened for decision in as_it_is)
    assert decide(edited, prompts, "context") == as_it_is
