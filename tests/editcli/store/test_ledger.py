"""The ledger: which facts a version holds, read from its blobs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_stores import CONFIG, PARIS, PARIS_AGAIN, ROME, blobs, store_with_a_past

from editcli.store.ledger import Closed, Ledger, ancestry, full_id
from editcli.store.store import Store
from editors import EditorError, Fact


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_with_a_past(tmp_path / ".editcli")


def published(tmp_path: Path, content: dict[str, bytes]) -> Store:
    made = Store.create(tmp_path / "made", CONFIG)
    with made.writing() as change:
        change.publish("edit", content)
    return made


def test_a_version_without_the_blobs_has_no_facts(store: Store) -> None:
    assert Ledger.of(store, "v0001") == Ledger()


def test_facts_come_in_the_order_of_editing_closed_ones_included(store: Store) -> None:
    ledger = Ledger.of(store)
    assert ledger.facts == (PARIS, ROME, PARIS_AGAIN)
    assert ledger.in_force() == (PARIS_AGAIN,)
    assert ledger.closed == {
        PARIS.id: Closed("superseded", PARIS_AGAIN.id),
        ROME.id: Closed("undone", None),
    }
    assert ledger.layer == 4


def test_every_version_keeps_its_own_view(store: Store) -> None:
    assert [fact.target for fact in Ledger.of(store, "v0002").in_force()] == ["Lyon", "Milan"]
    assert [fact.target for fact in Ledger.of(store, "v0003").in_force()] == ["Milan", "Nice"]


def test_the_shard_of_a_fact_is_the_last_one_it_was_written_to(tmp_path: Path) -> None:
    again = blobs([PARIS, ROME], [[[PARIS.id], [ROME.id]], [[PARIS.id]]])
    ledger = Ledger.of(published(tmp_path, again))
    assert (ledger.shard_of(PARIS.id), ledger.shard_of(ROME.id)) == (1, 0)
    assert ledger.shard_of("0" * 12) is None


def test_a_fact_applied_again_stands_where_it_was_applied_last(tmp_path: Path) -> None:
    ledger = Ledger.of(published(tmp_path, blobs([PARIS, ROME, PARIS])))
    assert ledger.facts == (ROME, PARIS)


def test_line_separators_inside_a_text_do_not_split_a_fact(tmp_path: Path) -> None:
    odd = Fact("one\u2028two\x85three", "four")
    assert Ledger.of(published(tmp_path, blobs([odd]))).facts == (odd,)


def test_a_fact_is_found_by_its_id_or_the_start_of_it(store: Store) -> None:
    ledger = Ledger.of(store)
    assert ledger.find(ROME.id) == ROME
    assert ledger.find(ROME.id[:8]) == ROME


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
        Ledger.of(published(tmp_path, blobs(twins))).find("abc")


def test_ancestry_goes_from_a_version_to_the_first_one(store: Store) -> None:
    assert [v.id for v in ancestry(store, store.version("v0003"))] == ["v0003", "v0002", "v0001"]
    with store.writing() as change:
        change.move_head("v0002")
        branched = change.publish("edit", {})
    assert [v.id for v in ancestry(store, branched)] == ["v0005", "v0002", "v0001"]


def changed(**values: object) -> dict[str, bytes]:
    content = blobs([PARIS], [[[PARIS.id]]])
    return content | {"edits.json": json.dumps(json.loads(content["edits.json"]) | values).encode()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"facts.jsonl": b""}, "v0002 has facts.jsonl but no edits.json"),
        ({"edits.json": b"{}"}, "v0002 has edits.json but no facts.jsonl"),
        (changed(schema=9), "schema 9, this editcli reads schema 1"),
        (changed() | {"facts.jsonl": b"not json\n"}, "the facts of v0002 cannot be read"),
        (changed() | {"facts.jsonl": b'{"prompt": "a"}\n'}, "target: is required"),
        (changed(closed={"x": {"why": "undone", "by": None}}), "names a fact x that facts.jsonl"),
        (changed(closed={PARIS.id: {"why": "lost", "by": None}}), "closed as 'lost'"),
        (changed(shards=[{}]), "'groups'"),
        (changed() | {"edits.json": b"[]"}, "the facts of v0002 cannot be read"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, content: dict[str, bytes], message: str
) -> None:
    with pytest.raises(EditorError, match=message):
        Ledger.of(published(tmp_path, content))
