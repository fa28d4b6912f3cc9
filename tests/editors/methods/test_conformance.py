"""What every editing method promises, whatever it does inside: ours, and another package's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_edits import (
    FACTS,
    FRANCE,
    FRANCE_AGAIN,
    JAPAN,
    SETTINGS,
    CountingCache,
    corpus,
    edit,
    no_edits,
    reopened,
)

from editors import METHODS, StateMismatch
from editors.inference.edited_model import EditedModel
from editors.inference.generation import answers
from editors.inference.next_tokens import digests
from editors.methods.applying import NO_CACHE, Limits
from editors.model.base_model import Base

MethodOf = Callable[..., Any]
TOY = "toy-quote"
NAMES = ["ft-m", "in-context", "wise", TOY]
TRAINED = ["ft-m", "wise"]  # whose edits a model of random weights answers
OTHERS = ["the sea of Spain is", "Ann plays the", "the city of Kenya is", "who lives in Rome ?"]
TOKENS = 4
PROMPTS = [fact.prompt for fact in FACTS]


@pytest.fixture(params=NAMES)
def method(request: pytest.FixtureRequest, tiny_method: MethodOf, toy_package: Path) -> Any:
    """The method on the shared tiny llama."""
    return tiny_method(request.param, settings=SETTINGS.get(request.param, {}))


def texts(method: Any, state: Any, prompts: list[str]) -> list[str]:
    with method.attach(state) as model:
        return [answer.text for answer in answers(model, prompts, TOKENS)]


def base_texts(method: Any, prompts: list[str]) -> list[str]:
    unedited = EditedModel.unedited(method.base)
    return [answer.text for answer in answers(unedited, prompts, TOKENS)]


def logits(method: Any, state: Any, prompts: list[str]) -> list[bytes]:
    with method.attach(state) as model:
        return digests(model, prompts)


def base_logits(method: Any, prompts: list[str]) -> list[bytes]:
    return digests(EditedModel.unedited(method.base), prompts)


def answered(method: Any, state: Any, facts: Any) -> bool:
    """Each fact's prompt is answered by its target; shown on trained methods alone."""
    said = texts(method, state, [fact.prompt for fact in facts])
    return all(text.startswith(fact.target) for text, fact in zip(said, facts, strict=True))


# --- what a method says of itself -----------------------------------------------------------------


def test_every_registered_method_is_tested_here(toy_package: Path) -> None:
    assert list(METHODS.names()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_goes_by_the_name_that_it_is_registered_under(
    name: str, toy_package: Path
) -> None:
    spec = METHODS.load(name)
    assert spec.name == name
    assert spec.title
    assert spec.cost
    settings = spec.all_settings({})
    assert json.loads(json.dumps(settings)) == settings
    assert spec.all_settings(settings) == settings


def test_it_names_the_modules_that_it_edits(method: Any) -> None:
    state = no_edits(method)
    assert state.modules == tuple(p.path for p in method.edited_projections())
    assert set(method.replacements(edit(method, FACTS).state)) <= set(state.modules)


# --- before any edit ------------------------------------------------------------------------------


def test_without_edits_it_is_the_base_bit_for_bit(method: Any) -> None:
    state = no_edits(method)
    assert logits(method, state, [*PROMPTS, *OTHERS]) == base_logits(method, [*PROMPTS, *OTHERS])
    assert texts(method, state, PROMPTS) == base_texts(method, PROMPTS)


def test_starting_is_deterministic(method: Any) -> None:
    one, other = (method.save(method.start(corpus(), NO_CACHE)) for _ in range(2))
    assert one == other


# --- applying and asking --------------------------------------------------------------------------


def test_applied_facts_are_in_force_in_order(method: Any) -> None:
    done = edit(method, FACTS)
    assert done.applied == tuple(fact.id for fact in FACTS)
    assert done.state.in_force() == list(FACTS)
    assert (done.unchanged, done.superseded, done.failed, done.left) == ((), {}, (), ())
    if method.spec.name in TRAINED:
        assert answered(method, done.state, FACTS)
        assert done.iterations > 0


def test_a_routed_edit_claims_its_prompts_and_leaves_others_bit_for_bit(method: Any) -> None:
    if not method.spec.routed:
        pytest.skip("always on: every prompt meets the changed model")
    state = edit(method, FACTS).state
    with method.attach(state) as model:
        decisions = [answer.decision for answer in answers(model, PROMPTS, TOKENS)]
    assert [(decision.fact, decision.opened) for decision in decisions] == [
        (fact.id, True) for fact in FACTS
    ]
    assert not set(logits(method, state, PROMPTS)) & set(base_logits(method, PROMPTS))
    assert logits(method, state, OTHERS) == base_logits(method, OTHERS)
    for decision in decisions:
        assert method.explain(decision, state)[0]


def test_an_edit_that_is_always_on_decides_nothing(method: Any) -> None:
    if method.spec.routed:
        pytest.skip("routed: each prompt is decided on")
    state = edit(method, FACTS).state
    with method.attach(state) as model:
        assert [answer.decision for answer in answers(model, PROMPTS, TOKENS)] == [None] * 4
    assert method.explain(None, state)[0]


def test_probing_forwards_meet_the_base(method: Any) -> None:
    state = edit(method, FACTS).state
    ids = torch.tensor([method.base.tokenizer(FRANCE.prompt).input_ids])
    with torch.no_grad():
        plain = method.base.model(ids).logits
        with method.attach(state), method.base.probing():
            assert torch.equal(method.base.model(ids).logits, plain)


def test_applying_again_changes_nothing(method: Any) -> None:
    state = edit(method, FACTS).state
    again = edit(method, FACTS, state)
    assert (again.applied, again.unchanged) == ((), tuple(fact.id for fact in FACTS))
    assert method.save(again.state) == method.save(state)


def test_the_same_facts_give_the_same_bytes(method: Any) -> None:
    one, other = (method.save(edit(method, FACTS).state) for _ in range(2))
    assert one == other


def test_a_fact_supersedes_the_one_with_its_prompt(method: Any) -> None:
    done = edit(method, [FRANCE_AGAIN], edit(method, FACTS).state)
    assert done.superseded == {FRANCE.id: FRANCE_AGAIN.id}
    closure = done.state.closed[FRANCE.id]
    assert (closure.reason, closure.replaced_by) == ("superseded", FRANCE_AGAIN.id)
    assert done.state.in_force() == [*FACTS[1:], FRANCE_AGAIN]
    if method.spec.name in TRAINED:
        assert answered(method, done.state, [FRANCE_AGAIN])


# --- taking back ----------------------------------------------------------------------------------


def test_an_undone_fact_is_answered_as_if_it_had_never_been_applied(method: Any) -> None:
    never = edit(method, [FRANCE]).state
    undone = method.remove(edit(method, [JAPAN], never).state, [JAPAN.id]).state
    assert undone.in_force() == [FRANCE]
    assert undone.closed[JAPAN.id].reason == "undone"
    assert logits(method, undone, [JAPAN.prompt]) == logits(method, never, [JAPAN.prompt])
    if method.spec.routed:
        assert logits(method, undone, [JAPAN.prompt]) == base_logits(method, [JAPAN.prompt])
    if method.spec.name in TRAINED:
        assert answered(method, undone, [FRANCE])


def test_exact_undo_needs_no_model_and_no_payload(method: Any) -> None:
    """What `editcli undo` does without a model is what the method would do with one."""
    if method.spec.undo != "exact":
        pytest.skip("undone by retraining")
    from editors import FactClosure

    state = edit(method, FACTS).state
    closed = state.closing({FRANCE.id: FactClosure("undone")})
    assert method.save(closed) == method.save(method.remove(state, [FRANCE.id]).state)


def test_undo_by_retraining_gives_the_payload_of_facts_never_applied(method: Any) -> None:
    if method.spec.undo != "retraining":
        pytest.skip("undone exactly")
    never = edit(method, FACTS[2:], edit(method, FACTS[:1]).state).state
    with_japan = edit(method, [JAPAN], edit(method, FACTS[:1]).state).state
    undone = method.remove(edit(method, FACTS[2:], with_japan).state, [JAPAN.id]).state
    assert method.dump(undone.payload) == method.dump(never.payload)


def test_an_undone_fact_can_be_applied_again(method: Any) -> None:
    undone = method.remove(edit(method, FACTS).state, [FRANCE.id]).state
    done = edit(method, [FRANCE], undone)
    assert done.applied == (FRANCE.id,)
    assert done.state.in_force() == [*FACTS[1:], FRANCE]
    if method.spec.name in TRAINED:
        assert answered(method, done.state, [FRANCE])


# --- saving, stopping, several processes ----------------------------------------------------------


def test_what_is_saved_opens_as_it_was(method: Any) -> None:
    state = method.remove(edit(method, [*FACTS, FRANCE_AGAIN]).state, [JAPAN.id]).state
    again = reopened(method, state)
    assert (again.facts, again.closed) == (state.facts, state.closed)
    assert method.save(again) == method.save(state)
    prompts = [*PROMPTS, *OTHERS]
    assert logits(method, again, prompts) == logits(method, state, prompts)
    more = edit(method, [JAPAN], again).state
    assert method.save(more) == method.save(edit(method, [JAPAN], state).state)


def test_a_run_that_was_killed_goes_on_where_it_stopped(method: Any) -> None:
    cache, limits = CountingCache(), Limits(batch_size=2)
    whole = edit(method, FACTS, limits=limits)

    def killed(_: Any) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method.apply(no_edits(method), FACTS, cache=cache, on_progress=killed, limits=limits)
    resumed = edit(method, FACTS, cache=cache, limits=limits)
    assert method.save(resumed.state) == method.save(whole.state)
    if cache.entries:
        assert cache.hits > 0


def test_a_run_that_is_asked_to_stop_leaves_the_rest(method: Any) -> None:
    limits = Limits(batch_size=2)
    done = method.apply(
        no_edits(method), FACTS, cache=NO_CACHE, on_progress=lambda _: False, limits=limits
    )
    first = len(done.applied)
    assert done.applied == tuple(fact.id for fact in FACTS[:first])
    assert done.left == tuple(fact.id for fact in FACTS[first:])
    rest = edit(method, FACTS, done.state, limits=limits)
    whole = edit(method, FACTS, limits=limits)
    assert method.save(rest.state) == method.save(whole.state)


def test_several_processes_make_what_one_makes(method: Any) -> None:
    cache = CountingCache()
    for process in range(2):
        method.prepare(
            no_edits(method), FACTS, cache=cache, takes=lambda unit, own=process: unit % 2 == own
        )
    together = edit(method, FACTS, cache=cache)
    assert method.save(together.state) == method.save(edit(method, FACTS).state)


def test_edits_of_another_base_are_refused(
    method: Any, word_tokenizer: Any, tiny_model: Any
) -> None:
    state = edit(method, [FRANCE]).state
    base = Base.of(tiny_model("mistral"), word_tokenizer())
    other = METHODS.load(method.spec.name).build(base, SETTINGS.get(method.spec.name, {}), 0)
    with pytest.raises(StateMismatch, match="these edits were made on base"):
        other.attach(state).__enter__()
    with pytest.raises(StateMismatch):
        edit(other, [JAPAN], state)
