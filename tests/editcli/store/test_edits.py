"""The edits of a version: read from its facts and blobs, and how two of them differ."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_edits import FACTS, FRANCE
from tiny_stores import (
    CONFIG,
    FRAME,
    PARIS,
    PARIS_AGAIN,
    ROME,
    framed,
    run,
    shard,
    store_with_a_past,
)
from typer.testing import Result

import editcli
from editcli.store.changes import Changes, NewBlob
from editcli.store.edits import blobs_of, changes_between, described, edits_of, without_heads
from editcli.store.records import Version
from editcli.store.store import Store
from editors import METHODS, EditorError, Fact, FactClosure
from editors.heads.pruning import Head, HeadMask, HeadPruning
from editors.methods.edit_state import COMMON, EDITS, HEAD_FILL, HEAD_MASK, EditState, full_id
from editors.model.saved_payload import SavedPayload


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_with_a_past(tmp_path / ".editcli")


def published(tmp_path: Path, *steps: Changes) -> Store:
    made = Store.create(tmp_path / "made", CONFIG, Changes(blobs=framed()))
    with made.writing() as change:
        for step in steps:
            change.publish("edit", step)
    return made


# --- reading ----------------------------------------------------------------------------------


def test_facts_come_in_the_order_of_editing_those_in_shards_included(store: Store) -> None:
    edits = edits_of(store)
    assert list(edits.facts.values()) == [PARIS, ROME, PARIS_AGAIN]
    assert list(edits.facts) == [PARIS.id, ROME.id, PARIS_AGAIN.id]
    assert edits.in_force() == [PARIS_AGAIN]
    assert edits.closed == {
        PARIS.id: FactClosure("superseded", PARIS_AGAIN.id),
        ROME.id: FactClosure("undone", None),
    }
    assert (edits.method, edits.layer, edits.settings) == ("wise", 4, {"profile": "robust"})
    assert edits.modules == ("model.layers.4.mlp.down_proj",)
    assert edits.fingerprint == "f" * 64
    assert edits.payload.made_from == {
        "shard-0000.safetensors": ((PARIS.id, ROME.id),),
        "shard-0001.safetensors": ((PARIS_AGAIN.id,),),
    }
    assert edits.pruning is None


def test_every_version_keeps_its_own_view(store: Store) -> None:
    assert [fact.target for fact in edits_of(store, "v0002").in_force()] == ["Lyon", "Milan"]
    assert [fact.target for fact in edits_of(store, "v0003").in_force()] == ["Milan", "Nice"]
    assert edits_of(store, store.version("first")) == edits_of(store, "v0002")


def test_a_version_without_edits_has_no_facts(tmp_path: Path) -> None:
    edits = edits_of(published(tmp_path))
    assert (edits.facts, edits.closed, edits.in_force()) == ({}, {}, [])


def test_a_fact_that_nothing_was_made_from_is_forgotten_once_it_ends(tmp_path: Path) -> None:
    made = published(tmp_path, Changes([PARIS, ROME]), Changes(closed={PARIS.id: None}))
    assert edits_of(made).facts == {ROME.id: ROME}
    assert edits_of(made).closed == {}


def test_of_several_texts_of_a_fact_the_newest_counts(tmp_path: Path) -> None:
    longer = replace(PARIS, source="atlas, p. 4")
    made = published(
        tmp_path,
        Changes([PARIS], blobs=shard(0, [PARIS])),
        Changes([longer], closed={PARIS.id: PARIS.id}, blobs=shard(1, [longer])),
        Changes(closed={PARIS.id: None}),
    )
    assert edits_of(made, "v3").facts == {PARIS.id: longer}
    assert edits_of(made, "v3").closed == {}
    assert edits_of(made).facts == {PARIS.id: longer}
    assert edits_of(made).closed == {PARIS.id: FactClosure("undone")}


def test_a_fact_that_came_back_stands_where_it_came_back(tmp_path: Path) -> None:
    made = published(tmp_path, Changes([PARIS, ROME]), Changes(closed={PARIS.id: None}))
    (text, _) = [entry.text for entry in made.in_force(made.version("v2"))]
    with made.writing() as change:
        change.publish("undo", Changes(again=[text]))
    assert list(edits_of(made).facts.values()) == [ROME, PARIS]
    assert edits_of(made).closed == {}


def test_line_separators_inside_a_text_are_kept(tmp_path: Path) -> None:
    odd = Fact("one\u2028two\x85three", "four\nfive\x00six")
    assert list(edits_of(published(tmp_path, Changes([odd]))).facts.values()) == [odd]


def test_a_fact_is_found_by_its_id_or_the_start_of_it(store: Store) -> None:
    edits = edits_of(store)
    assert edits.find(ROME.id) == ROME
    assert edits.find(ROME.id[:8]) == ROME


@given(st.sets(st.text("ab", min_size=1, max_size=4), min_size=1), st.text("ab", max_size=4))
def test_a_prefix_means_the_exact_id_or_the_only_one_or_nothing(ids: set[str], text: str) -> None:
    matching = {name for name in ids if text and name.startswith(text)}
    if text in matching or len(matching) == 1:
        assert full_id(text, ids) == (text if text in matching else matching.pop())
    else:
        with pytest.raises(EditorError, match="start"):
            full_id(text, ids)


def test_an_ambiguous_prefix_names_the_candidates(tmp_path: Path) -> None:
    twins = [Fact("a", "b", id="abc1"), Fact("a", "c", id="abc2")]
    with pytest.raises(EditorError, match=r"2 facts .* 'abc': abc1, abc2"):
        edits_of(published(tmp_path, Changes(twins))).find("abc")


def test_the_payload_is_read_as_a_whole_only_when_that_is_wanted(edited: Store) -> None:
    held = edited.blobs(edited.head())
    stored = set(held) - set(COMMON)
    assert any(name.startswith("shard-") for name in stored)
    assert edits_of(edited).payload.blobs == {}
    assert edits_of(edited, whole=True).payload.blobs == {
        name: edited.read(name, held[name]) for name in stored
    }
    name = "shard-0000.safetensors"
    edited.blob_path(name, held[name]).write_bytes(b"damaged")
    assert [fact.id for fact in edits_of(edited).in_force()] == [fact.id for fact in FACTS]
    with pytest.raises(EditorError, match=r"'shard-0000\.safetensors' .* is damaged"):
        edits_of(edited, whole=True)


def test_facts_and_shards_are_read_without_a_tensor_library(edited: Store) -> None:
    code = """
import sys
from pathlib import Path
from editcli.store.edits import edits_of
from editcli.store.store import Store
from editors import METHODS
edits = edits_of(Store.open(Path(sys.argv[1])), whole=True)
print(len(edits.facts), METHODS.load(edits.method).about(edits))
print(sorted({"torch", "transformers", "safetensors", "numpy"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(edited.path)],
        env={**os.environ, "PYTHONPATH": str(Path(editcli.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "4 {'shards': 2}\n[]\n"


def test_what_is_described_of_a_version_is_told_without_a_fact(edited: Store) -> None:
    edits = described(edited, edited.head())
    assert edits.facts == {}
    wise = METHODS.load("wise")
    assert wise.about(edits) == wise.about(edits_of(edited)) == {"shards": 2}
    texts = [str(entry.text) for entry in edited.in_force(edited.head())]
    assert edits.payload.facts() >= {*texts}


# --- what does not fit together -----------------------------------------------------------------


def frame(**values: object) -> Mapping[str, NewBlob]:
    return {EDITS: NewBlob(json.dumps({**FRAME, **values}).encode())}


def without(key: str) -> Mapping[str, NewBlob]:
    kept = {name: value for name, value in FRAME.items() if name != key}
    return {EDITS: NewBlob(json.dumps(kept).encode())}


@pytest.mark.parametrize(
    ("blobs", "message"),
    [
        ({EDITS: None}, r"v0002 has no edits\.json"),
        ({EDITS: NewBlob(b"{}")}, "v0002: .* cannot be read: 'schema'"),
        ({EDITS: NewBlob(b"[]")}, "v0002: .* cannot be read"),
        ({EDITS: NewBlob(b"{")}, r"edits\.json of v0002 cannot be read"),
        ({EDITS: NewBlob(b"\xff")}, r"edits\.json of v0002 cannot be read"),
        ({EDITS: NewBlob(b"[" * 100_000)}, r"edits\.json of v0002 cannot be read"),
        (without("payload"), "'payload'"),
        (without("modules"), "'modules'"),
        (frame(modules=None), "v0002: .* cannot be read"),
        ({HEAD_MASK: NewBlob(b"{}")}, "v0002: .* cannot be read"),
        ({HEAD_MASK: NewBlob(b"[" * 100_000)}, "v0002 cannot be read"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, blobs: Mapping[str, NewBlob | None], message: str
) -> None:
    made = published(tmp_path, Changes([PARIS], blobs=blobs))
    for read in (edits_of, lambda store: described(store, store.head())):
        with pytest.raises(EditorError, match=message) as caught:
            read(made)
        assert "`editcli verify`" in caught.value.hint


def test_edits_of_another_schema_are_read_by_another_editcli(tmp_path: Path) -> None:
    made = published(tmp_path, Changes([PARIS], blobs=frame(schema=9)))
    with pytest.raises(EditorError, match="schema 9, this editcli reads schema 3") as caught:
        edits_of(made)
    assert caught.value.hint == "`pip install --upgrade editcli`"


def with_payload(store: Store, payload: object) -> None:
    head = store.head()
    edits = json.loads(store.read(EDITS, store.blobs(head)[EDITS])) | {"payload": payload}
    with store.writing() as change:
        blobs = {EDITS: NewBlob(json.dumps(edits).encode())}
        change.publish("edit", Changes(blobs=blobs))


def assert_named(result: Result) -> None:
    """A command ended with an error and the way to find out more, not with a traceback."""
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "`editcli verify`" in result.stderr


@pytest.mark.parametrize("payload", [{}, {"scope": 3}, []])
def test_a_payload_that_its_method_cannot_read_is_not_attached(
    edited: Store, payload: object
) -> None:
    with_payload(edited, payload)
    assert_named(run("ask", FRANCE.prompt))


# --- how two versions differ ----------------------------------------------------------------------


def state_of(base: EditState, shards: Mapping[str, Sequence[Fact]]) -> EditState:
    """``base`` with a payload of these shards."""
    made_from = {name: (tuple(fact.id for fact in facts),) for name, facts in shards.items()}
    blobs = {name: repr(ids).encode() for name, ids in made_from.items()}
    return replace(base, payload=SavedPayload(FRAME["payload"], blobs, made_from))  # type: ignore[arg-type]


def publish_state(store: Store, before: EditState, after: EditState) -> Version:
    with store.writing() as change:
        changes = changes_between(store, store.head(), before, after)
        return change.publish("edit", changes)


POOL = [Fact(f"the city of {n // 3} is", "ABC"[n % 3], id=f"id{n}") for n in range(9)]


@given(data=st.data())
@settings(
    max_examples=settings.default.max_examples // 3,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_what_is_published_of_a_state_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Facts enter, supersede each other, and end; shards are trained and dropped."""
    store = published(tmp_path_factory.mktemp("states"))
    known = edits_of(store)
    for number in range(data.draw(st.integers(1, 4))):
        group = data.draw(st.lists(st.sampled_from(POOL), max_size=4))
        state, entered, _ = known.entering(group)
        standing = [fact.id for fact in state.in_force() if fact not in entered]
        ended = data.draw(st.lists(st.sampled_from(standing), max_size=2)) if standing else []
        state = state.closing({fact: FactClosure("undone") for fact in ended})
        shards: dict[str, Sequence[Fact]] = {
            name: [state.facts[fact] for fact in groups[0]]
            for name, groups in known.payload.made_from.items()
            if data.draw(st.booleans())
        }
        if entered:
            shards[f"shard-{number}"] = entered
        after = state_of(state, shards)
        made = publish_state(store, edits_of(store), after)
        known = edits_of(store, whole=True)
        # One that is applied again as it was keeps its place.
        assert {*known.in_force()} == {*after.in_force()}
        assert known.payload == after.payload
        used = after.payload.facts()
        ends = {fact: closure for fact, closure in after.closed.items() if fact in used}
        assert known.closed == ends
        assert known.facts.keys() == {*used, *(fact.id for fact in after.in_force())}
        assert store.verify() == []
        assert made.changes["added"] == sum(c.kind == "added" for c in store.changes(made.number))


def test_nothing_differs_between_a_version_and_itself(edited: Store) -> None:
    state = edits_of(edited, whole=True)
    changes = changes_between(edited, edited.head(), state, state)
    assert (list(changes.facts), changes.closed, changes.blobs) == ([], {}, {})


FILL = b"the means of the heads"


def prune(store: Store) -> HeadPruning:
    """Publish HEAD with two heads pruned towards their means."""
    edits = edits_of(store)
    pruning = HeadPruning("memory", HeadMask((Head(1, 0), Head(0, 2))), edits.edits, {"rows": {}})
    pruned = blobs_of(replace(edits, pruning=pruning))
    with store.writing() as change:
        blobs = {HEAD_MASK: pruned[HEAD_MASK], HEAD_FILL: NewBlob(FILL)}
        change.publish("resolve", Changes(blobs=blobs))
    return pruning


def test_pruned_heads_stay_with_their_means_where_a_fact_ends(edited: Store) -> None:
    pruning = prune(edited)
    assert not edits_of(edited).stale
    with edited.writing() as change:
        change.publish("undo", Changes(closed={FRANCE.id: None}))
    for state in (edits_of(edited), described(edited, edited.head())):
        assert state.pruning == pruning
        assert state.stale
    assert edited.read(HEAD_FILL, edited.blobs(edited.head())[HEAD_FILL]) == FILL


def test_heads_that_are_put_back_leave_nothing_behind(edited: Store) -> None:
    plain: Any = edited.blobs(edited.head())
    prune(edited)
    with edited.writing() as change:
        change.publish("undo", Changes(blobs=without_heads(edited, edited.head())))
    assert edits_of(edited).pruning is None
    assert edited.blobs(edited.head()) == plain
    assert without_heads(edited, edited.head()) == {}
    assert edited.verify() == []
