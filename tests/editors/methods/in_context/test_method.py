"""In-context editing: a claimed prompt is answered as the base answers it behind its fact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_edits import FACTS, FRANCE, JAPAN, SETTINGS, edit
from tiny_models import WORDS

from editors import METHODS, EditorError, Fact, PromptTooLong
from editors.inference.edited_model import EditedModel
from editors.inference.generation import answers
from editors.inference.next_tokens import digests
from editors.methods.edit_state import EditState

MethodOf = Callable[..., Any]
OTHERS = ["the sea and the mountain", "the river of Kenya is"]
# The turns of the user alone, as a plain prompt: the tokens that claim are then a fact's own.
TEMPLATE = (
    "<s> {% for turn in messages %}"
    "{% if turn['role'] == 'user' %}{{ turn['content'] }}{% endif %}"
    "{% endfor %}"
)


@pytest.fixture(scope="module")
def edited(tiny_method: MethodOf) -> tuple[Any, Any]:
    method = tiny_method("in-context")
    return method, edit(method, FACTS).state


def lenient(state: EditState) -> EditState:
    """``state`` with a threshold for prompts that name the subject which all of them pass."""
    _, unnamed, same = state.payload.calibration["thresholds"].tolist()
    thresholds = torch.tensor([-1.0, unnamed, same])
    calibration = {**state.payload.calibration, "thresholds": thresholds}
    return replace(state, payload=replace(state.payload, calibration=calibration))


def test_a_claimed_prompt_is_answered_as_the_base_answers_it_behind_its_fact(
    edited: tuple[Any, Any],
) -> None:
    method, state = edited
    base = EditedModel.unedited(method.base)
    prompts = [fact.prompt for fact in FACTS]
    behind = [f"{fact.prompt} {fact.target}.\n{fact.prompt}" for fact in FACTS]
    with method.attach(state) as model:
        assert [text for text, _ in model.rewritten(prompts)] == behind
        given, logits = answers(model, prompts, 5), digests(model, prompts)
    plain = answers(base, behind, 5)
    assert [(a.text, a.stopped) for a in given] == [(a.text, a.stopped) for a in plain]
    assert logits == digests(base, behind)
    assert [answer.decision.fact for answer in given if answer.decision] == [
        fact.id for fact in FACTS
    ]


def test_other_prompts_are_not_rewritten(edited: tuple[Any, Any]) -> None:
    method, state = edited
    with method.attach(state) as model:
        rewritten = model.rewritten(OTHERS)
    assert [text for text, _ in rewritten] == OTHERS
    assert not any(decision.opened for _, decision in rewritten)


def test_a_claimed_prompt_in_other_words_stands_as_it_was_put(edited: tuple[Any, Any]) -> None:
    method, state = edited
    query = f"Ann wrote , {FRANCE.prompt}"
    with method.attach(lenient(state)) as model:
        [(text, decision)] = model.rewritten([query])
    assert decision is not None
    assert decision.fact == FRANCE.id
    assert text == f"{FRANCE.prompt} {FRANCE.target}.\n{query}"


def test_the_template_is_a_setting(tiny_method: MethodOf) -> None:
    settings = {**SETTINGS["in-context"], "template": "{target} , {prompt} : {query}"}
    method = tiny_method("in-context", "llama", settings)
    state = edit(method, [JAPAN]).state
    with method.attach(state) as model:
        [(text, _)] = model.rewritten([JAPAN.prompt])
    assert text == f"{JAPAN.target} , {JAPAN.prompt} : {JAPAN.prompt}"


def test_braces_in_a_fact_are_text(tiny_method: MethodOf) -> None:
    fact = Fact("the {sea} of {0} is", "{blue}", subject="{0}")
    method = tiny_method("in-context")
    with method.attach(edit(method, [fact]).state) as model:
        [(text, _)] = model.rewritten([fact.prompt])
    assert text == f"{fact.prompt} {fact.target}.\n{fact.prompt}"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"template": "{prompt} {target}"}, "template: must hold {prompt}, {target}, {query}"),
        ({"template": "{prompt} {target} {query} {x}"}, "template: must hold"),
        ({"template": "{prompt"}, "template: cannot be read as a template"),
        ({"template": ""}, "template: must not be empty"),
        ({"system": "{query}"}, "system: must hold {prompt}, {target} and nothing else"),
    ],
)
def test_a_template_that_makes_no_sense_is_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(EditorError) as caught:
        METHODS.load("in-context").all_settings(values)
    assert problem in caught.value.message


# --- chats ------------------------------------------------------------------------------------


@pytest.fixture
def chatting(edited: tuple[Any, Any]) -> Iterator[Any]:
    method, state = edited
    tokenizer = method.base.tokenizer
    tokenizer.chat_template = TEMPLATE
    with method.attach(state) as model:
        yield model
    tokenizer.chat_template = None


def test_a_chat_gets_its_fact_in_the_system_turn(chatting: Any) -> None:
    chat = [{"role": "user", "content": FRANCE.prompt}]
    [(turns, decision)] = chatting.rewritten([chat])
    assert decision.opened
    assert decision.fact == FRANCE.id
    assert turns[1:] == chat
    assert turns[0]["role"] == "system"
    assert f"{FRANCE.prompt} {FRANCE.target}" in turns[0]["content"]
    assert answers(chatting, [chat], 1)[0].decision == decision


def test_what_the_system_turn_says_is_a_setting(tiny_method: MethodOf) -> None:
    settings = {**SETTINGS["in-context"], "system": "{target} , {prompt}"}
    method = tiny_method("in-context", "llama", settings)
    method.base.tokenizer.chat_template = TEMPLATE
    chat = [{"role": "user", "content": JAPAN.prompt}]
    with method.attach(edit(method, [JAPAN]).state) as model:
        [(turns, _)] = model.rewritten([chat])
    assert turns[0] == {"role": "system", "content": f"{JAPAN.target} , {JAPAN.prompt}"}


def test_a_system_turn_that_is_there_stays(chatting: Any) -> None:
    chat = [
        {"role": "system", "content": "who speaks Italian ?"},
        {"role": "user", "content": FRANCE.prompt},
    ]
    [(turns, _)] = chatting.rewritten([chat])
    assert [turn["role"] for turn in turns] == ["system", "user"]
    assert turns[0]["content"].startswith("who speaks Italian ?\n\n")
    assert f"{FRANCE.prompt} {FRANCE.target}" in turns[0]["content"]
    assert chat[0]["content"] == "who speaks Italian ?", "what was given does not change"


def test_a_chat_about_something_else_is_left_alone(chatting: Any) -> None:
    chat = [{"role": "user", "content": OTHERS[0]}]
    [(turns, decision)] = chatting.rewritten([chat])
    assert turns == chat
    assert not decision.opened


# --- length -----------------------------------------------------------------------------------


def test_a_fact_that_leaves_no_room_for_its_own_prompt_is_refused(tiny_method: MethodOf) -> None:
    """Its prompt alone would fit, but it is put before itself."""
    method = tiny_method("in-context")
    half = Fact("the sea " * 35 + "is", "blue")
    with pytest.raises(PromptTooLong, match="the model takes 128"):
        edit(method, [half])


def test_a_claimed_prompt_that_has_grown_too_long_is_named_as_it_was_put(
    edited: tuple[Any, Any],
) -> None:
    method, state = edited
    queries = [f"{word} " * 118 + FRANCE.prompt for word in WORDS]
    with method.attach(lenient(state)) as model:
        decisions = [decision for _, decision in model.rewritten(queries)]
        claimed = next(q for q, d in zip(queries, decisions, strict=True) if d and d.opened)
        with pytest.raises(PromptTooLong, match=f"the model takes 128 .*: {claimed[:20]!r}"[:-1]):
            answers(model, [claimed], 1)
    assert answers(EditedModel.unedited(method.base), [claimed], 1), "unclaimed, it fits"
