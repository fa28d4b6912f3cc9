"""What every editing method does with facts, in the cases that are easily got wrong.

What is promised of any method, another package's too, is in ``test_conformance``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_edits import (
    FACTS,
    FRANCE,
    FRANCE_AGAIN,
    JAPAN,
    PAPER,
    PERU,
    SETTINGS,
    CountingCache,
    edit,
    no_edits,
    reopened,
)

from editors import METHODS, EditorError, Fact, FactClosure, InvalidFact, PromptTooLong
from editors.inference.edited_model import EditedModel
from editors.inference.generation import answers
from editors.inference.next_tokens import digests
from editors.methods.applying import NO_CACHE, Limits
from editors.methods.edit_state import EditState

MethodOf = Callable[..., Any]

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, SETTINGS[name]) for name in METHODS.names()},
    "paper": ("wise", PAPER),
    "in pairs": ("ft-m", {**SETTINGS["ft-m"], "group_size": 2}),
}
"""Methods, some of them with other settings too."""

UNRELATED = ["the sea and the mountain", "who plays the piano ?", "the river of Kenya is"]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(kind, marks=() if kind in METHODS.names() else pytest.mark.slow)
        for kind in KINDS
    ],
)
def method(tiny_method: MethodOf, request: pytest.FixtureRequest) -> Any:
    name, settings = KINDS[request.param]
    return tiny_method(name, "llama", settings)


def answered(method: Any, state: EditState, facts: Sequence[Fact]) -> list[str]:
    """The answers to the facts' prompts; one that does not stop ends in an ellipsis.

    A random model cannot read: where a fact is put before a prompt, it is what is read off there.
    """
    with method.attach(state) as model:
        if method.spec.name == "in-context":
            return [targets_before(model, fact) for fact in facts]
        given = answers(model, [fact.prompt for fact in facts], 5)
    return [answer.text if answer.stopped else f"{answer.text} ..." for answer in given]


def targets_before(model: EditedModel, fact: Fact) -> str:
    [(rewritten, _)] = model.rewritten([fact.prompt])
    assert isinstance(rewritten, str)
    return rewritten.removesuffix(f".\n{fact.prompt}").removeprefix(fact.prompt).strip()


def taught(method: Any) -> bool:
    """Whether a tiny model learns its facts for sure: the paper's few steps are too few."""
    return method.settings != METHODS.load("wise").build(method.base, PAPER, 0).settings


def names_no_facts(method: Any) -> bool:
    """Whether claims are made by activations, which on a random model are hardly selective."""
    return getattr(method.settings, "scope", None) == "activation"


def check_answers(method: Any, state: EditState, facts: Sequence[Fact]) -> None:
    if taught(method):
        assert answered(method, state, facts) == [fact.target for fact in facts]


# --- facts in force ---------------------------------------------------------------------------


def test_every_applied_fact_is_answered_and_stops(method: Any) -> None:
    done = edit(method, FACTS)
    assert done.applied == tuple(fact.id for fact in FACTS)
    assert (done.unchanged, done.left) == ((), ())
    assert done.failed == () or not taught(method)
    assert done.state.in_force() == list(FACTS)
    check_answers(method, done.state, FACTS)
    check_answers(method, reopened(method, done.state), FACTS)


def test_applying_twice_changes_nothing(method: Any) -> None:
    once, cache = edit(method, FACTS), CountingCache()
    twice = edit(method, FACTS, once.state, cache)
    assert method.save(twice.state) == method.save(once.state)
    assert twice.unchanged == once.applied
    assert (twice.applied, twice.iterations, cache.entries) == ((), 0, {})


def test_a_fact_given_twice_is_applied_once(method: Any) -> None:
    done = edit(method, [FRANCE, FRANCE, JAPAN])
    assert done.applied == (FRANCE.id, JAPAN.id)
    assert method.save(done.state) == method.save(edit(method, [FRANCE, JAPAN]).state)


def test_a_new_answer_to_an_edited_prompt_closes_the_old_one(method: Any) -> None:
    before = edit(method, [FRANCE, JAPAN]).state
    done = edit(method, [FRANCE_AGAIN], before)
    assert done.applied == (FRANCE_AGAIN.id,)
    assert done.superseded == {FRANCE.id: FRANCE_AGAIN.id}
    assert done.state.closed == {FRANCE.id: FactClosure("superseded", FRANCE_AGAIN.id)}
    assert done.state.in_force() == [JAPAN, FRANCE_AGAIN]
    check_answers(method, done.state, [FRANCE_AGAIN])
    if method.spec.routed:
        check_answers(method, done.state, [JAPAN])


def test_a_fact_may_be_superseded_in_the_batch_that_brings_it(method: Any) -> None:
    done = edit(method, [FRANCE, JAPAN, FRANCE_AGAIN])
    assert done.applied == (JAPAN.id, FRANCE_AGAIN.id)
    assert done.state.in_force() == [JAPAN, FRANCE_AGAIN]
    check_answers(method, done.state, [JAPAN, FRANCE_AGAIN])


def test_an_old_answer_may_come_back(method: Any) -> None:
    state = edit(method, [FRANCE_AGAIN], edit(method, [FRANCE, JAPAN]).state).state
    done = edit(method, [FRANCE], state)
    assert done.superseded == {FRANCE_AGAIN.id: FRANCE.id}
    assert done.state.in_force() == [JAPAN, FRANCE]
    check_answers(method, done.state, [FRANCE])
    if method.spec.routed:
        check_answers(method, done.state, [JAPAN])
    check_answers(method, reopened(method, done.state), [FRANCE])


def test_an_answer_may_come_back_in_the_batch_that_supersedes_it(method: Any) -> None:
    done = edit(method, [FRANCE, FRANCE_AGAIN, FRANCE])
    assert (done.applied, done.superseded) == ((FRANCE.id,), {FRANCE_AGAIN.id: FRANCE.id})
    assert done.state.in_force() == [FRANCE]
    check_answers(method, done.state, [FRANCE])


# --- cache, refusals, stopping ----------------------------------------------------------------


def test_what_is_in_the_cache_is_what_was_trained(method: Any, tiny_method: MethodOf) -> None:
    cache = CountingCache()
    trained = edit(method, FACTS, cache=cache)
    assert cache.hits == 0
    again = tiny_method(method.spec.name, "llama", trained.state.settings)
    recalled = edit(again, FACTS, cache=cache)
    assert cache.hits == len(cache.entries)
    assert bool(cache.entries) == (trained.iterations > 0)
    assert method.save(recalled.state) == method.save(trained.state)
    assert (recalled.applied, recalled.failed) == (trained.applied, trained.failed)
    assert recalled.iterations == trained.iterations


@pytest.mark.parametrize("scope", ["key", "relation"])
def test_work_in_the_cache_runs_no_forward(tiny_method: MethodOf, scope: str) -> None:
    method = tiny_method("wise", settings={**SETTINGS["wise"], "scope": scope})
    cache, start = CountingCache(), no_edits(method)
    edit(method, FACTS, start, cache=cache)
    forwards = []
    with method.base.model.register_forward_pre_hook(lambda *_: forwards.append(1)):
        edit(method, FACTS, start, cache=cache)
    assert cache.hits
    assert not forwards


def test_another_text_is_not_found_in_the_cache(method: Any) -> None:
    cache = CountingCache()
    edit(method, [FRANCE], cache=cache)
    edit(method, [Fact(FRANCE.prompt, "Lima", subject="France", id=FRANCE.id)], cache=cache)
    edit(method, [Fact(f"{FRANCE.prompt} ,", FRANCE.target, id=FRANCE.id)], cache=cache)
    assert cache.hits == 0


def test_an_alias_that_is_another_subject_stops_all_before_training(method: Any) -> None:
    rival = Fact("the sea of Spain is", "blue", subject="Spain", aliases=("france",))
    for facts, state in (([FRANCE, rival], None), ([rival], edit(method, [FRANCE]).state)):
        cache = CountingCache()
        with pytest.raises(InvalidFact, match=f"'france' is the subject of fact {FRANCE.id}"):
            edit(method, facts, state, cache=cache)
        assert not cache.entries


def test_one_fact_that_cannot_be_encoded_stops_all_before_training(method: Any) -> None:
    cache = CountingCache()
    long = Fact("the sea " * 70 + "is", "blue")
    with pytest.raises(PromptTooLong, match="the model takes 128"):
        edit(method, [FRANCE, long], cache=cache)
    with pytest.raises(PromptTooLong, match="the model takes 128"):
        method.prepare(no_edits(method), [FRANCE, long], cache=cache, takes=lambda _: True)
    assert cache.entries == {}


def test_a_run_that_is_stopped_keeps_what_it_has(method: Any) -> None:
    seen: list[tuple[int, int]] = []

    def until_two(progress: Any) -> bool:
        seen.append((progress.done, progress.total))
        return progress.done < 2

    limits = Limits(batch_size=2)
    start = no_edits(method)
    done = method.apply(start, FACTS, cache=NO_CACHE, on_progress=until_two, limits=limits)
    assert seen == [(2, 4)]
    assert done.applied == tuple(fact.id for fact in FACTS[:2])
    assert done.left == tuple(fact.id for fact in FACTS[2:])
    assert method.save(done.state) == method.save(edit(method, FACTS[:2]).state)
    assert edit(method, FACTS, done.state).applied == done.left


def test_a_batch_size_is_one_call_after_the_other(method: Any) -> None:
    steps: list[int] = []
    done = method.apply(
        no_edits(method),
        FACTS,
        cache=NO_CACHE,
        on_progress=lambda progress: steps.append(progress.done) is None,
        limits=Limits(batch_size=2),
    )
    assert steps == [2, 4]
    one = method.save(done.state)
    other = method.save(edit(method, FACTS[2:], edit(method, FACTS[:2]).state).state)
    assert one.keys() == other.keys()
    # Keys are read in other company, which moves their last bits.
    assert all(one[name] == other[name] for name in one if not name.startswith("scope-keys-"))


def test_what_was_prepared_is_what_applying_finds(method: Any) -> None:
    """As where several processes train some units of work each."""
    cache, units = CountingCache(), set()
    start = no_edits(method)
    method.prepare(start, FACTS, cache=cache, takes=lambda unit: units.add(unit) is not None)
    assert cache.entries == {}, "no unit was wanted"
    for wanted in units:
        method.prepare(start, FACTS, cache=cache, takes=lambda unit, n=wanted: unit == n)
    entries = len(cache.entries)
    cache.hits = 0
    done = edit(method, FACTS, cache=cache)
    assert len(cache.entries) == cache.hits == entries
    assert method.save(done.state) == method.save(edit(method, FACTS).state)


# --- taking facts back ------------------------------------------------------------------------


@pytest.fixture
def undoing(method: Any) -> Any:
    """A method by which single facts can be taken back."""
    reason = method.spec.why_no_undo(method.spec.all_settings({}))
    assert reason is None, "with its defaults, every method can"
    if method.spec.why_no_undo(no_edits(method).settings) is not None:
        pytest.skip("not with these settings")
    return method


def test_only_scope_by_activation_keeps_facts_from_being_taken_back(method: Any) -> None:
    reason = method.spec.why_no_undo(no_edits(method).settings)
    assert (reason is not None) == names_no_facts(method)
    assert reason is None or "activations" in reason


@pytest.mark.parametrize("gone", [FRANCE, JAPAN, FACTS[-1]], ids=lambda fact: fact.subject)
def test_a_fact_that_is_taken_back_leaves_its_prompt_and_moves_no_other(
    undoing: Any, gone: Fact
) -> None:
    before = edit(undoing, FACTS).state
    after = reopened(undoing, undoing.remove(before, [gone.id]).state)
    others = [fact for fact in FACTS if fact != gone]
    assert after.in_force() == others
    assert after.closed == {gone.id: FactClosure("undone")}
    assert gone in before.in_force(), "states do not change"
    check_answers(undoing, after, others)
    if undoing.spec.routed:
        with undoing.attach(after) as model:
            [answer] = answers(model, [gone.prompt], 5)
        [plain] = answers(EditedModel.unedited(undoing.base), [gone.prompt], 5)
        assert (answer.text, answer.stopped) == (plain.text, plain.stopped)
        assert not answer.decision.opened


def test_edits_go_on_after_a_fact_was_taken_back(undoing: Any) -> None:
    left = undoing.remove(edit(undoing, [FRANCE, JAPAN]).state, [FRANCE.id]).state
    state = edit(undoing, [PERU], left).state
    assert state.in_force() == [JAPAN, PERU]
    again = edit(undoing, [FRANCE], state)
    assert again.applied == (FRANCE.id,)
    assert again.state.in_force() == [JAPAN, PERU, FRANCE]
    check_answers(undoing, again.state, [FRANCE])
    if undoing.spec.routed:
        check_answers(undoing, state, [JAPAN, PERU])
        check_answers(undoing, again.state, [FRANCE, JAPAN, PERU])


def test_taking_back_all_facts_leaves_the_base(undoing: Any) -> None:
    state = edit(undoing, FACTS[:2]).state
    state = undoing.remove(state, [fact.id for fact in FACTS[:2]]).state
    prompts = [*UNRELATED, *(fact.prompt for fact in FACTS[2:])]
    with undoing.attach(reopened(undoing, state)) as model:
        edited = digests(model, prompts)
    assert edited == digests(EditedModel.unedited(undoing.base), prompts)


def test_an_unknown_fact_cannot_be_taken_back(undoing: Any) -> None:
    with pytest.raises(EditorError, match="no fact has an id that starts with 'nope'"):
        undoing.remove(edit(undoing, [FRANCE]).state, ["nope"])


def test_all_facts_that_are_named_are_held(method: Any) -> None:
    """What a store sees to, without loading a method, for the edits that it is given."""
    first = edit(method, [FRANCE, JAPAN]).state
    state = edit(method, [FRANCE_AGAIN, PERU], first).state
    if method.spec.why_no_undo(state.settings) is None:
        state = method.remove(state, [JAPAN.id]).state
    stored = EditState.from_blobs(method.save(state))
    held = stored.payload.facts()
    assert held <= set(stored.facts)
    assert {fact.id for fact in stored.in_force()} <= held


def test_what_is_told_of_a_fact_later_is_kept_without_training(method: Any) -> None:
    state, cache = edit(method, [FRANCE, JAPAN]).state, CountingCache()
    more = replace(FRANCE, rephrases=("who rules France ?",), note="checked", tags=("a",))
    done = edit(method, [more, JAPAN], state, cache)
    assert (done.applied, done.updated, done.iterations) == ((), (FRANCE.id,), 0)
    assert set(done.unchanged) == {FRANCE.id, JAPAN.id}
    assert done.state.facts[FRANCE.id] == more
    again = edit(method, [FRANCE], done.state)  # a fact that tells less takes nothing away
    assert (again.applied, again.updated) == ((), ())
    assert again.state.facts[FRANCE.id] == more


def test_a_new_variant_or_subject_is_trained(method: Any) -> None:
    bare = replace(FRANCE, subject=None, id="")
    state = edit(method, [bare, JAPAN]).state
    named = edit(method, [FRANCE], state)
    assert (named.applied, named.superseded) == ((FRANCE.id,), {bare.id: FRANCE.id})
    variant = replace(FRANCE, variants=("the town of France is",))
    done = edit(method, [variant], named.state)
    assert (done.applied, done.updated, done.superseded) == ((FRANCE.id,), (), {})
    assert done.state.facts[FRANCE.id] == variant
    assert done.state.in_force() == [JAPAN, variant]


def test_without_a_fact_the_edits_are_as_if_it_had_never_been(method: Any) -> None:
    """The law of a purge, where each fact has a memory of its own or there is none."""
    state = edit(method, [PERU], edit(method, [JAPAN], edit(method, [FRANCE]).state).state).state
    never = edit(method, [PERU], edit(method, [FRANCE]).state).state
    without = method.without(state, [JAPAN.id])
    assert without.failed == ()
    saved = method.close(without.state)
    assert saved.payload.facts() == {FRANCE.id, PERU.id}
    assert JAPAN.id not in str(method.save(without.state))
    if getattr(method.settings, "scope", "") == "activation":
        return  # memories are told apart by how they are trained, which is not the same again
    with method.attach(without.state) as model:
        said = [a.text for a in answers(model, [FRANCE.prompt, PERU.prompt], 3)]
    with method.attach(never) as model:
        wanted = [a.text for a in answers(model, [FRANCE.prompt, PERU.prompt], 3)]
    assert said == wanted


# --- answers explained, and the base as it was ------------------------------------------------


def test_an_answer_can_be_explained(method: Any) -> None:
    state = edit(method, FACTS).state
    with method.attach(state) as model:
        own, other = answers(model, [FRANCE.prompt, UNRELATED[0]], 1)
    text, record = method.explain(own.decision, state)
    assert text
    assert record == {} or record["shard"] == own.decision.memory
    if method.spec.routed:
        assert own.decision.opened
        assert (method.explain(other.decision, state)[0] == "") == (not other.decision.opened)
        assert own.decision.fact is None or FRANCE.id in text


def test_training_and_answering_change_no_tensor_of_the_base(method: Any) -> None:
    model = method.base.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = edit(method, FACTS).state
    answered(method, state, FACTS)
    method.self_test()
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in model.parameters())
