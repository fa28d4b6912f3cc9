"""What a signal knows, as data: keys in pages, and nothing lost on the way to bytes and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editors.errors import StateMismatch
from editors.scope.base import FactKeys
from editors.scope.scope_state import PAGE, ScopeState, packed, unpacked


def keys_of(fact: int, counts: Sequence[int] = (2, 1)) -> FactKeys:
    generator = torch.Generator().manual_seed(fact)
    names = ("keys", "negatives")
    return {n: torch.randn(c, 3, generator=generator) for n, c in zip(names, counts, strict=True)}


def facts(*numbers: int) -> dict[str, FactKeys]:
    return {f"fact-{number}": keys_of(number) for number in numbers}


def assert_same(one: FactKeys, other: FactKeys) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=6))
def test_keys_of_several_facts_survive_packing(counts: list[tuple[int, int]]) -> None:
    several = [keys_of(number, own) for number, own in enumerate(counts)]
    after = unpacked(packed(several))
    assert len(after) == len(several)
    for one, other in zip(several, after, strict=True):
        assert_same(one, other)


def test_a_state_survives_a_round_trip() -> None:
    before = ScopeState("key", {"centre": torch.ones(2)}).knowing(facts(*range(PAGE + 3)))
    before = before.knowing(facts(4)).only([*reversed(before.keys)])
    after = ScopeState.load(before.dump(), ["another", *before.keys])
    assert (after.signal, after.pages) == ("key", before.pages)
    assert list(after.keys) == list(before.keys), "the order is that of the facts in force"
    for fact, keys in before.keys.items():
        assert_same(after.keys[fact], keys)
    assert torch.equal(after.calibration["centre"], torch.ones(2))


def test_one_more_fact_changes_the_bytes_of_one_page() -> None:
    before = ScopeState("key", {"centre": torch.ones(2)}).knowing(facts(*range(2 * PAGE + 1)))
    after = before.knowing(facts(2 * PAGE + 1))
    old, new = before.dump().blobs, after.dump().blobs
    assert old.keys() == new.keys()
    assert [name for name in old if old[name] != new[name]] == ["scope-keys-0002.safetensors"]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=200))
def test_keys_are_stored_again_a_few_times_at_most(added: list[int]) -> None:
    """However many versions follow, each with a few facts."""
    state, stored, number = ScopeState("key"), 0, 0
    for count in added:
        before = set(state.pages)
        state = state.knowing({f"fact-{number + i}": keys_of(i) for i in range(count)})
        stored += sum(len(page) for page in state.pages if page not in before)
        number += count
    assert [fact for page in state.pages for fact in page] == list(state.keys)
    assert stored <= 8 * number
    assert len(state.pages) <= 2 * number / PAGE + 8


def test_a_fact_that_leaves_changes_no_other_page() -> None:
    before = ScopeState("key").knowing(facts(*range(2 * PAGE)))
    gone = f"fact-{PAGE + 3}"
    after = before.only([fact for fact in before.keys if fact != gone])
    assert gone not in after.keys
    assert after.pages[0] == before.pages[0]
    assert gone not in after.pages[1]
    assert len(after.pages[1]) == PAGE - 1


def test_what_is_learnt_anew_takes_the_place_of_what_was_known() -> None:
    before = ScopeState("key").knowing(facts(1, 2))
    after = before.knowing({"fact-1": keys_of(9)})
    assert after.pages == before.pages
    assert_same(after.keys["fact-1"], keys_of(9))
    assert_same(before.keys["fact-1"], keys_of(1))


def test_pages_without_facts_go() -> None:
    state = ScopeState("key").knowing(facts(*range(PAGE + 1)))
    assert len(state.pages) == 2
    assert state.only([f"fact-{PAGE}"]).pages == ((f"fact-{PAGE}",),)


def test_keys_that_are_not_those_of_the_facts_are_refused() -> None:
    saved = ScopeState("key").knowing(facts(1, 2)).dump()
    with pytest.raises(StateMismatch, match="keys of facts that are missing"):
        ScopeState.load(saved, ["fact-1"])
    [name] = saved.made_from
    more = replace(saved, made_from={name: (("fact-1", "fact-2", "fact-3"),)})
    with pytest.raises(ValueError, match="zip"):
        ScopeState.load(more, ["fact-1", "fact-2", "fact-3"])
