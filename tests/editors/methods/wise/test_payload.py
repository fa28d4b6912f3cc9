"""What WISE keeps, as bytes: shards and the keys of facts come back, and damage is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_edits import FACTS, FRANCE, FRANCE_AGAIN, JAPAN, PAPER, PERU, edit, no_edits, reopened

from editors import METHODS
from editors.errors import StateMismatch
from editors.methods.edit_state import EditState
from editors.methods.wise.payload import WisePayload
from editors.methods.wise.shards import Mask, Shard
from editors.scope.scope_state import ScopeState

Wises = Callable[..., Any]


def shard(*groups: tuple[str, ...], seed: int = 0, threshold: float = 4.5) -> Shard:
    mask = Mask((5, 7), 0.4, seed)
    values = torch.randn(int(mask.entries().sum()), generator=torch.Generator().manual_seed(seed))
    return Shard(groups, mask, values, threshold)


def payload() -> WisePayload:
    generator = torch.Generator().manual_seed(2)
    keys = {
        fact.id: {
            "keys": torch.randn(2, 4, generator=generator),
            "negatives": torch.randn(number, 4, generator=generator),
        }
        for number, fact in enumerate(FACTS)
    }
    scope = ScopeState("key", {"centre": torch.randn(3, 4, generator=generator)}).knowing(keys)
    first = shard((FRANCE.id,), (JAPAN.id, FRANCE.id, PERU.id))
    return WisePayload(scope, (first, shard((FACTS[-1].id,), seed=1, threshold=float("inf"))))


@pytest.fixture(scope="module")
def saved(tiny_wise: Wises) -> tuple[Any, EditState, dict[str, bytes]]:
    """A method, a state of it with the payload above, and the state's blobs."""
    method = tiny_wise("llama")
    facts = {fact.id: fact for fact in FACTS}
    state = replace(no_edits(method), payload=payload(), facts=facts)
    return method, state, method.save(state)


def test_a_payload_survives_a_round_trip() -> None:
    before = payload()
    after = WisePayload.load(before.dump(), [fact.id for fact in FACTS])
    assert after.dump() == before.dump()
    for one, other in zip(before.shards, after.shards, strict=True):
        assert (one.groups, one.support, one.threshold) == (
            other.groups,
            other.support,
            other.threshold,
        )
        assert one.facts == other.facts
        assert torch.equal(one.delta(), other.delta())
    assert (after.scope.signal, after.scope.pages) == (before.scope.signal, before.scope.pages)
    assert torch.equal(after.scope.calibration["centre"], before.scope.calibration["centre"])
    assert list(after.scope.keys) == list(before.scope.keys)
    for fact, keys in before.scope.keys.items():
        assert keys.keys() == after.scope.keys[fact].keys()
        assert all(torch.equal(keys[name], after.scope.keys[fact][name]) for name in keys)


def test_each_shard_and_each_page_of_keys_has_a_blob(saved: Any) -> None:
    _, _, blobs = saved
    assert set(blobs) == {
        "facts.jsonl",
        "edits.json",
        "shard-0000.safetensors",
        "shard-0001.safetensors",
        "scope.safetensors",
        "scope-keys-0000.safetensors",
    }


NAMES = list(payload().dump().blobs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "damage",
    [lambda b: None, lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"\xff" + b[1:]],
    ids=["missing", "empty", "cut", "changed"],
)
def test_a_damaged_blob_is_refused(saved: Any, name: str, damage: Any) -> None:
    method, _, whole = saved
    blobs = dict(whole)
    left = damage(blobs.pop(name))
    if left is not None:
        blobs[name] = left
    with pytest.raises(StateMismatch) as caught:
        method.open(EditState.from_blobs(blobs))
    assert caught.value.message


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("shard-0001.safetensors", "scope-keys-0000.safetensors"),
        ("scope-keys-0000.safetensors", "shard-0001.safetensors"),
    ],
)
def test_a_blob_in_the_place_of_another_is_refused(saved: Any, name: str, other: str) -> None:
    method, _, blobs = saved
    with pytest.raises(StateMismatch):
        method.open(EditState.from_blobs({**blobs, name: blobs[other]}))


def test_a_fact_is_in_the_newest_shard_that_took_it(saved: Any) -> None:
    method, state, _ = saved
    twice = replace(payload(), shards=(shard((FRANCE.id, JAPAN.id)), shard((JAPAN.id,), seed=1)))
    assert twice.shard_of() == {FRANCE.id: 0, JAPAN.id: 1}
    stored = EditState.from_blobs(method.save(replace(state, payload=twice)))
    spec = METHODS.load("wise")
    assert spec.about(stored) == {"shards": 2}
    assert [spec.about_fact(stored, fact.id) for fact in (FRANCE, JAPAN, PERU)] == [
        {"shard": 0},
        {"shard": 1},
        {"shard": None},
    ]


@pytest.mark.parametrize("settings", [None, PAPER], ids=["robust", "paper"])
def test_trained_shards_survive_saving(tiny_wise: Wises, settings: Any) -> None:
    method = tiny_wise("llama", settings)
    state = edit(method, [*FACTS, FRANCE_AGAIN]).state
    after = reopened(method, state)
    assert after.payload.scope.signal == method.settings.scope
    for one, other in zip(state.payload.shards, after.payload.shards, strict=True):
        assert (one.groups, one.threshold) == (other.groups, other.threshold)
        assert torch.equal(one.values, other.values)
