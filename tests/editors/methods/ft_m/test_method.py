"""FT-M as a method: its groups, and facts that are taken back by training the others again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_edits import (
    FACTS,
    FRANCE,
    FRANCE_AGAIN,
    JAPAN,
    NORWAY,
    PERU,
    SETTINGS,
    CountingCache,
    edit,
    no_edits,
)

from editors import METHODS
from editors.methods.edit_state import EditState

MethodOf = Callable[..., Any]
PAIRS = {**SETTINGS["ft-m"], "group_size": 2}


@pytest.fixture(scope="module")
def method(tiny_method: MethodOf) -> Any:
    return tiny_method("ft-m", "llama", PAIRS)


def test_facts_are_trained_in_groups_that_go_on_from_each_other(method: Any) -> None:
    state = edit(method, FACTS).state
    ids = [fact.id for fact in FACTS]
    assert state.payload.groups == ((ids[0], ids[1]), (ids[2], ids[3]))
    apart = edit(method, FACTS[2:], edit(method, FACTS[:2]).state).state
    assert torch.equal(apart.payload.delta, state.payload.delta)
    first = edit(method, FACTS[:2]).state
    assert not torch.equal(first.payload.delta, state.payload.delta)
    about = METHODS.load("ft-m").about
    assert about(EditState.from_blobs(method.save(state))) == {"groups": 2}


@pytest.mark.parametrize("gone", FACTS, ids=lambda fact: fact.subject)
def test_what_is_left_is_as_if_the_fact_had_never_been_applied(method: Any, gone: Any) -> None:
    left = method.remove(edit(method, FACTS).state, [gone.id]).state
    never = no_edits(method)
    for group in (FACTS[:2], FACTS[2:]):
        if others := [fact for fact in group if fact != gone]:
            never = edit(method, others, never).state
    assert left.in_force() == never.in_force()
    assert left.payload.groups == never.payload.groups
    assert torch.equal(left.payload.delta, never.payload.delta)


def test_a_group_without_facts_left_is_no_group(method: Any) -> None:
    left = method.remove(edit(method, FACTS).state, [FRANCE.id, JAPAN.id]).state
    only = edit(method, [PERU, NORWAY]).state
    assert left.payload.groups == only.payload.groups
    assert torch.equal(left.payload.delta, only.payload.delta)


def test_what_was_superseded_before_is_not_trained_again(method: Any) -> None:
    state = edit(method, [FRANCE_AGAIN], edit(method, [FRANCE, JAPAN]).state).state
    left = method.remove(state, [FRANCE_AGAIN.id]).state
    only = edit(method, [JAPAN]).state
    assert left.in_force() == [JAPAN]
    assert torch.equal(left.payload.delta, only.payload.delta)


def test_another_seed_setting_or_base_is_trained_anew(tiny_method: MethodOf) -> None:
    cache = CountingCache()
    edit(tiny_method("ft-m", "llama", PAIRS), [FRANCE], cache=cache)
    edit(tiny_method("ft-m", "llama", PAIRS, 1), [FRANCE], cache=cache)
    edit(tiny_method("ft-m", "llama", {**PAIRS, "bound": 2.0}), [FRANCE], cache=cache)
    edit(tiny_method("ft-m", "gptj", PAIRS), [FRANCE], cache=cache)
    assert (cache.hits, len(cache.entries)) == (0, 4)


def test_what_is_trained_again_and_fails_is_named(tiny_method: MethodOf) -> None:
    method = tiny_method("ft-m", "llama", {**PAIRS, "bound": 1e-6, "max_steps": 3})
    done = edit(method, FACTS)
    assert set(done.failed) == {fact.id for fact in FACTS}
    removed = method.remove(done.state, [FRANCE.id])
    assert removed.failed == tuple(fact.id for fact in (JAPAN, PERU, NORWAY))
    assert removed.iterations == 3 + 3
