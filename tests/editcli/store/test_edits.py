"""The edits of a version: read from its blobs, and published again with facts closed."""

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
from hypothesis import given
from hypothesis import strategies as st
from tiny_edits import FACTS, FRANCE, JAPAN
from tiny_stores import CONFIG, PARIS, PARIS_AGAIN, ROME, blobs, json_of, run, store_with_a_past
from typer.testing import Result

import editcli
from editcli.store.edits import edits_of, publish_closing
from editcli.store.records import Version
from editcli.store.store import Store
from editors import METHODS, EditorError, Fact, FactClosure
from editors.heads.pruning import Head, HeadMask, HeadPruning
from editors.methods.edit_state import COMMON, EDITS, HEAD_FILL, HEAD_MASK, EditState, full_id
from editors.methods.edit_state import FACTS as FACTS_BLOB


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_with_a_past(tmp_path / ".editcli")


def published(tmp_path: Path, content: dict[str, bytes]) -> Store:
    made = Store.create(tmp_path / "made", CONFIG)
    with made.writing() as change:
        change.publish("edit", content)
    return made


# --- reading ----------------------------------------------------------------------------------


def test_facts_come_in_the_order_of_editing_closed_ones_included(store: Store) -> None:
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
    assert edits.pruning is None


def test_every_version_keeps_its_own_view(store: Store) -> None:
    assert [fact.target for fact in edits_of(store, "v0002").in_force()] == ["Lyon", "Milan"]
    assert [fact.target for fact in edits_of(store, "v0003").in_force()] == ["Milan", "Nice"]
    assert edits_of(store, store.version("first")) == edits_of(store, "v0002")


def test_a_version_without_edits_has_no_facts(tmp_path: Path) -> None:
    made = Store.create(tmp_path / "made", CONFIG, blobs=blobs([]))
    edits = edits_of(made)
    assert (edits.facts, edits.closed, edits.in_force()) == ({}, {}, [])


def test_the_shard_of_a_fact_is_the_last_one_it_was_written_to(tmp_path: Path) -> None:
    again = blobs([PARIS, ROME], [[[PARIS.id], [ROME.id]], [[PARIS.id]]])
    edits, wise = edits_of(published(tmp_path, again)), METHODS.load("wise")
    assert wise.about(edits) == {"shards": 2}
    assert [wise.about_fact(edits, fact.id) for fact in (PARIS, ROME)] == [
        {"shard": 1, "plain": False},
        {"shard": 0, "plain": False},
    ]
    assert wise.about_fact(edits, "0" * 12) == {"shard": None, "plain": False}


def test_a_fact_applied_again_stands_where_it_was_applied_last(tmp_path: Path) -> None:
    edits = edits_of(published(tmp_path, blobs([PARIS, ROME, PARIS])))
    assert list(edits.facts.values()) == [ROME, PARIS]


def test_line_separators_inside_a_text_do_not_split_a_fact(tmp_path: Path) -> None:
    odd = Fact("one\u2028two\x85three", "four")
    assert list(edits_of(published(tmp_path, blobs([odd]))).facts.values()) == [odd]


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
        edits_of(published(tmp_path, blobs(twins))).find("abc")


def test_the_payload_is_read_as_a_whole_only_when_that_is_wanted(edited: Store) -> None:
    head = edited.head()
    stored = set(head.blobs) - set(COMMON)
    assert any(name.startswith("shard-") for name in stored)
    assert edits_of(edited).payload.blobs == {}
    assert edits_of(edited, whole=True).payload.blobs == {
        name: edited.read(head, name) for name in stored
    }
    shard = edited.blob_path(head, "shard-0000.safetensors")
    shard.write_bytes(b"damaged")
    assert [fact.id for fact in edits_of(edited).in_force()] == [fact.id for fact in FACTS]
    with pytest.raises(EditorError, match=r"'shard-0000\.safetensors' .* is damaged"):
        edits_of(edited, whole=True)


def test_facts_shards_and_closures_are_read_without_a_tensor_library(edited: Store) -> None:
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


# --- what does not fit together -----------------------------------------------------------------


def changed(**values: object) -> dict[str, bytes]:
    content = blobs([PARIS], [[[PARIS.id]]])
    return content | {"edits.json": json.dumps(json.loads(content["edits.json"]) | values).encode()}


def without(key: str) -> dict[str, bytes]:
    content = changed()
    edits = json.loads(content["edits.json"])
    del edits[key]
    return content | {"edits.json": json.dumps(edits).encode()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, r"v0002 has no edits\.json"),
        ({"facts.jsonl": b""}, r"v0002 has no edits\.json"),
        ({"edits.json": b"{}"}, "v0002: .* cannot be read: 'schema'"),
        ({"edits.json": changed()["edits.json"]}, "v0002: .*: 'facts.jsonl'"),
        (changed() | {"facts.jsonl": b"not json\n"}, "v0002: .* cannot be read"),
        (changed() | {"facts.jsonl": b'{"prompt": "a"}\n'}, "target: is required"),
        (
            changed(closed={"x": {"reason": "undone", "replaced_by": None}}),
            r"closes a fact x that facts\.jsonl lacks",
        ),
        (changed(closed={PARIS.id: {"reason": "lost", "replaced_by": None}}), "not 'lost'"),
        (changed(closed={PARIS.id: {"replaced_by": None}}), "reason: is required"),
        (changed(closed=[]), "v0002: .* cannot be read"),
        (without("payload"), "'payload'"),
        (without("modules"), "'modules'"),
        (changed() | {"edits.json": b"[]"}, "v0002: .* cannot be read"),
        (changed() | {"head_mask.json": b"{}"}, "v0002: .* cannot be read"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, content: dict[str, bytes], message: str
) -> None:
    with pytest.raises(EditorError, match=message) as caught:
        edits_of(published(tmp_path, content))
    assert "`editcli verify`" in caught.value.hint


def test_edits_of_another_schema_are_read_by_another_editcli(tmp_path: Path) -> None:
    with pytest.raises(EditorError, match="schema 9, this editcli reads schema 2") as caught:
        edits_of(published(tmp_path, changed(schema=9)))
    assert caught.value.hint == "`pip install --upgrade editcli`"


def republish(store: Store, changes: dict[str, bytes]) -> None:
    """Publish HEAD again with other bytes for some of its blobs."""
    head = store.head()
    with store.writing() as change:
        change.publish("edit", {**head.blobs, **changes}, head.facts)


def with_payload(store: Store, payload: object) -> None:
    edits = json.loads(store.read("HEAD", EDITS)) | {"payload": payload}
    republish(store, {EDITS: json.dumps(edits).encode()})


def assert_named(result: Result) -> None:
    """A command ended with an error and the way to find out more, not with a traceback."""
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "`editcli verify`" in result.stderr


@pytest.mark.parametrize("payload", [{}, {"shards": [{}]}, {"shards": 3}, []])
def test_a_payload_that_its_method_cannot_read_is_not_attached(
    edited: Store, payload: object
) -> None:
    with_payload(edited, payload)
    assert_named(run("ask", FRANCE.prompt))


@pytest.mark.parametrize("command", [["show"], ["show", FRANCE.id], ["report", "out.html"]])
def test_a_payload_that_its_method_cannot_describe_is_not_shown(
    edited: Store, command: list[str]
) -> None:
    with_payload(edited, {})
    assert_named(run(*command))


def test_a_payload_of_a_fact_that_no_one_knows_is_not_attached(edited: Store) -> None:
    lines = edited.read("HEAD", FACTS_BLOB).splitlines(keepends=True)
    others = b"".join(line for line in lines if FRANCE.id.encode() not in line)
    republish(edited, {FACTS_BLOB: others})
    assert_named(run("ask", FRANCE.prompt))


def test_verify_lists_a_payload_that_its_method_cannot_read(edited: Store) -> None:
    with_payload(edited, {})
    result = run("verify", "--no-base")
    assert result.exit_code == 1
    assert "v0003" in result.stdout


# --- publishing again -----------------------------------------------------------------------------


def close(
    store: Store, state: EditState, removed: Sequence[str] = (), **more: Mapping[str, object]
) -> Version:
    with store.writing() as change:
        return publish_closing(
            change,
            "undo",
            store.head(),
            state,
            removed=removed,
            author="ann",
            message="a joke",
            tools={"editcli": "0.2.0"},
            extra=more,
        )


def test_closing_a_fact_changes_what_is_in_force_and_no_tensor(edited: Store) -> None:
    before, edits = edited.head(), edits_of(edited)
    made = close(edited, edits.closing({FRANCE.id: FactClosure("undone")}), [FRANCE.id], why={})
    after = edits_of(edited)
    assert after.closed == {FRANCE.id: FactClosure("undone")}
    assert list(after.facts.values()) == list(FACTS)
    assert made.facts == tuple(fact.id for fact in FACTS if fact != FRANCE)
    assert (made.parent, made.removed, made.operation) == (before.id, (FRANCE.id,), "undo")
    assert (made.author, made.message, made.extra) == ("ann", "a joke", {"why": {}})
    assert made.tools == {"editcli": "0.2.0"}
    assert set(made.blobs) == set(before.blobs)
    assert {name for name in made.blobs if made.blobs[name] != before.blobs[name]} == {"edits.json"}
    assert edited.verify() == []


def test_closing_reads_no_tensor(edited: Store) -> None:
    shard = edited.blob_path("HEAD", "shard-0000.safetensors")
    shard.write_bytes(b"damaged")
    close(edited, edits_of(edited).closing({JAPAN.id: FactClosure("undone")}), [JAPAN.id])
    assert shard.read_bytes() == b"damaged"
    assert [fact for fact in FACTS if fact not in edits_of(edited).in_force()] == [JAPAN]
    assert [problem.what for problem in edited.verify()] == [f"blobs/{shard.name}"]


def test_what_closing_publishes_answers_as_it_says(edited: Store) -> None:
    close(edited, edits_of(edited).closing({FRANCE.id: FactClosure("undone")}), [FRANCE.id])
    answers = [json_of(run("ask", fact.prompt, "--json")) for fact in (FRANCE, JAPAN)]
    assert [answer["edited"] for answer in answers] == [False, True]
    assert answers[1]["answer"] == JAPAN.target


FILL = b"the means of the heads"


def prune(store: Store) -> HeadPruning:
    """Publish HEAD with two heads pruned towards their means."""
    edits = edits_of(store)
    pruning = HeadPruning("memory", HeadMask((Head(1, 0), Head(0, 2))), edits.edits, {"rows": {}})
    head = store.head()
    pruned = replace(edits, pruning=pruning).to_blobs(edits.payload)
    with store.writing() as change:
        change.publish("resolve", {**head.blobs, **pruned, HEAD_FILL: FILL}, head.facts)
    return pruning


def test_pruned_heads_stay_with_their_means_where_a_fact_is_closed(edited: Store) -> None:
    pruning = prune(edited)
    close(edited, edits_of(edited).closing({FRANCE.id: FactClosure("undone")}), [FRANCE.id])
    assert edits_of(edited).pruning == pruning
    assert edits_of(edited).stale
    assert edited.read("HEAD", HEAD_FILL) == FILL


def test_heads_that_are_put_back_leave_nothing_behind(edited: Store) -> None:
    plain = edited.head()
    prune(edited)
    made = close(edited, replace(edits_of(edited), pruning=None))
    assert edits_of(edited).pruning is None
    assert not {HEAD_MASK, HEAD_FILL} & set(made.blobs)
    assert made.blobs == plain.blobs
    assert edited.verify() == []


def test_nothing_is_published_of_a_fact_that_is_not_there(store: Store) -> None:
    edits: Any = edits_of(store)
    before = store.head()
    with pytest.raises(EditorError, match="no fact has an id"):
        close(store, edits.closing({"0" * 12: FactClosure("undone")}))
    assert store.head() == before
