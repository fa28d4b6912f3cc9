"""What versions hold: facts in force on any line, changes, differences, pasts, ids, and pages."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_stores import CONFIG, PARIS, PARIS_AGAIN, ROME, content, store_with_a_past

from editcli.store.changes import Changes, NewBlob
from editcli.store.store import Store
from editcli.store.tables import contents, database
from editcli.store.tables.contents import Change
from editcli.store.tables.listing import Wanted
from editors import EditorError, Fact, FactClosure


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "s", CONFIG)


def publish(store: Store, *facts: Fact, **closed: str | None) -> str:
    with store.writing() as change:
        return change.publish("edit", Changes(facts, closed=closed)).id


def in_force(store: Store, ref: str = "HEAD") -> list[Fact | None]:
    return [entry.fact for entry in store.in_force(store.version(ref))]


def many(count: int, first: int = 0) -> list[Fact]:
    numbers = range(first, first + count)
    return [Fact(f"the number of {n} is", f"{n}", id=f"id{n}") for n in numbers]


# --- facts in force -----------------------------------------------------------------------------


def test_a_line_tells_which_facts_are_in_force(store: Store) -> None:
    publish(store, PARIS, ROME)
    publish(store, PARIS_AGAIN, **{PARIS.id: PARIS_AGAIN.id})
    with store.writing() as change:
        change.move_head("v2")
    publish(store, **{ROME.id: None})
    assert [in_force(store, ref) for ref in store.ids()] == [
        [],
        [PARIS, ROME],
        [ROME, PARIS_AGAIN],
        [PARIS],
    ]
    gone, come = store.diff(store.version("v3"), store.version("v4"))
    assert ([e.fact for e in gone], [e.fact for e in come]) == ([ROME, PARIS_AGAIN], [PARIS])


def test_a_fact_with_another_text_takes_the_place_of_itself(store: Store) -> None:
    longer = replace(PARIS, source="atlas, p. 4")
    publish(store, PARIS, ROME)
    publish(store, longer, **{PARIS.id: PARIS.id})
    assert in_force(store) == [ROME, longer]
    assert store.changes(3) == [Change("added", longer), Change("superseded", PARIS, PARIS.id)]
    past = store.past(store.head(), PARIS.id)
    assert past is not None
    assert (past.fact, past.added_in.id, past.closure) == (longer, "v0003", None)


def test_the_changes_of_several_events_are_those_of_each(store: Store) -> None:
    publish(store, PARIS, ROME)
    publish(store, PARIS_AGAIN, **{PARIS.id: PARIS_AGAIN.id})
    assert store.changes_of([3, 1, 2]) == {seq: store.changes(seq) for seq in (3, 1, 2)}
    assert store.changes_of([2], limit=1) == {2: [Change("added", PARIS)]}


def test_the_events_that_changed_a_blob_are_found(store: Store) -> None:
    publish(store, PARIS)
    for blobs in ({"mask.json": NewBlob(b"a")}, {"other.json": NewBlob(b"a")}, {"mask.json": None}):
        with store.writing() as change:
            change.publish("resolve", Changes(blobs=blobs))
    assert store.changing("mask.json") == {3, 5}
    assert store.changing("other.json") == {4}
    assert store.changing("none.json") == set()


def test_a_fact_that_is_superseded_at_once_is_never_in_force(store: Store) -> None:
    publish(store, PARIS, PARIS_AGAIN, **{PARIS.id: PARIS_AGAIN.id})
    assert in_force(store) == [PARIS_AGAIN]
    assert store.changes(2) == [Change("added", PARIS_AGAIN)]
    past = store.past(store.head(), PARIS.id)
    assert past is not None
    assert past.closure == FactClosure("superseded", PARIS_AGAIN.id)
    assert (past.added_in.id, past.closed_in and past.closed_in.id) == ("v0002", "v0002")


def test_a_fact_comes_back_with_the_text_that_it_had(store: Store) -> None:
    publish(store, PARIS, ROME)
    (text, *_) = [entry.text for entry in store.in_force(store.head())]
    publish(store, **{PARIS.id: None})
    with store.writing() as change:
        change.publish("undo", Changes(again=[text]))
    assert in_force(store) == [ROME, PARIS]
    assert store.changes(4) == [Change("added", PARIS)]
    assert store.diff(store.version("v2"), store.head()) == ([], [])
    assert store.about(PARIS.id) == {2, 3, 4}
    publish(store, PARIS_AGAIN, **{PARIS.id: PARIS_AGAIN.id})
    closures = [FactClosure("undone"), FactClosure("superseded", PARIS_AGAIN.id)]
    for ref, closure in zip(["v3", "v5"], closures, strict=True):
        past = store.past(store.version(ref), PARIS.id)
        assert past is not None
        assert past.closure == closure
        assert past.closed_in == store.version(ref)
    assert store.verify() == []


def test_a_fact_ends_in_favour_of_one_that_comes_back(store: Store) -> None:
    publish(store, PARIS)
    (old,) = store.in_force(store.head())
    publish(store, PARIS_AGAIN, **{PARIS.id: PARIS_AGAIN.id})
    with store.writing() as change:
        change.publish("undo", Changes(again=[old.text], closed={PARIS_AGAIN.id: PARIS.id}))
    assert in_force(store) == [PARIS]
    assert store.changes(4) == [
        Change("added", PARIS),
        Change("superseded", PARIS_AGAIN, PARIS.id),
    ]


def test_a_fact_may_end_in_favour_of_one_that_ended_long_ago(store: Store) -> None:
    publish(store, PARIS)
    publish(store, **{PARIS.id: None})
    publish(store, ROME)
    publish(store, **{ROME.id: PARIS.id})
    assert in_force(store) == []
    assert store.changes(5) == [Change("superseded", ROME, PARIS.id)]


def test_a_fact_that_is_taken_out_and_entered_in_one_step_stays(store: Store) -> None:
    longer = replace(PARIS, source="atlas, p. 4")
    publish(store, PARIS)
    publish(store, longer, **{PARIS.id: None})
    assert in_force(store) == [longer]
    assert store.head().changes == {"added": 1, "removed": 1, "superseded": 0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (Changes(closed={ROME.id: None}), "is not in force"),
        (Changes(closed={PARIS_AGAIN.id: None}), "is not in force"),
        (Changes(closed={PARIS.id: "f" * 12}), "f{12} was never in force"),
        (Changes([PARIS]), "is in force already"),
        (Changes([ROME, ROME]), "is in force already"),
        (Changes(again=[3]), "is in force already"),
        (Changes([ROME], again=[5]), "is in force already"),
        (Changes(again=[5, 5]), "come back twice"),
        (Changes(again=[2]), "record 2 is not the text of a fact"),
        (Changes(again=[99]), "record 99 is not the text of a fact"),
        (Changes(blobs={"a": NewBlob(b"", (("f" * 12,),))}), "f{12} was never in force"),
    ],
)
def test_changes_that_do_not_fit_the_parent_change_nothing(
    store: Store, changes: Changes, message: str
) -> None:
    publish(store, PARIS)  # records 3 and 4, after the two of the first version
    publish(store, ROME)
    publish(store, **{ROME.id: None})
    texts = [entry.text for entry in store.in_force(store.version("v3"))]
    assert texts == [3, 5]
    before = content(store.path)
    with store.writing() as change, pytest.raises(EditorError, match=message):
        change.publish("edit", replace(changes, blobs=changes.blobs or {"b": NewBlob(b"new")}))
    assert content(store.path) == before


# --- pasts and ids ------------------------------------------------------------------------------


def test_the_past_of_a_fact_is_that_up_to_a_version(tmp_path: Path) -> None:
    store = store_with_a_past(tmp_path / "s")

    def past(ref: str, fact: Fact) -> tuple[str, FactClosure | None, str | None] | None:
        found = store.past(store.version(ref), fact.id)
        if found is None:
            return None
        assert found.fact == fact
        return found.added_in.id, found.closure, found.closed_in and found.closed_in.id

    superseded = FactClosure("superseded", PARIS_AGAIN.id)
    assert past("v1", PARIS) is None
    assert past("v2", PARIS) == ("v0002", None, None)
    assert past("v3", PARIS) == past("HEAD", PARIS) == ("v0002", superseded, "v0003")
    assert past("v4", ROME) == ("v0002", FactClosure("undone"), "v0004")
    assert past("v2", PARIS_AGAIN) is None
    assert [store.about(fact.id) for fact in (PARIS, ROME)] == [{2, 3}, {2, 4}]
    assert store.about("0" * 12) == set()


def test_a_fact_is_known_by_the_start_of_its_id(store: Store) -> None:
    publish(store, *many(12))
    publish(store, id3=None)
    assert store.full_id("id3") == "id3"  # though it is no longer in force
    assert store.full_id("id1") == "id1"  # though id10 begins so
    assert store.ids_beginning("id1") == ["id1", "id10", "id11"]
    with pytest.raises(EditorError, match="12 facts have an id that starts with 'i'"):
        store.full_id("i")
    for prefix in ("id4x", "", "%", "id_", "ID3", "\udcff", "\0"):
        with pytest.raises(EditorError):
            store.full_id(prefix)


def test_facts_are_found_by_a_part_of_their_text(store: Store) -> None:
    publish(store, PARIS, ROME)
    publish(store, PARIS_AGAIN, **{PARIS.id: PARIS_AGAIN.id})

    def found(like: str) -> list[Fact | None]:
        return [listed.fact for listed in store.list_facts(store.head(), Wanted(match=like))]

    assert found("capital") == [PARIS_AGAIN, ROME]
    assert found("milan") == [ROME]
    assert found("lyon") == found("%") == []


# --- pages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [1, 3, 7, 100])
def test_pages_hold_each_fact_once_and_in_order(
    store: Store, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    facts = many(7)
    publish(store, *facts)
    publish(store, id2=None)
    monkeypatch.setattr("editcli.store.reader.PAGE", page)
    wanted = [fact for fact in facts if fact.id != "id2"]
    assert in_force(store) == wanted
    newest = [listed.fact for listed in store.list_facts(store.head(), Wanted())]
    assert newest == wanted[::-1]
    odd = [f.fact for f in store.list_facts(store.head(), Wanted(match="the number of 5"))]
    assert odd == [facts[5]]


def test_a_listing_that_is_left_half_way_holds_up_no_writer(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = many(9)
    publish(store, *facts)
    monkeypatch.setattr("editcli.store.reader.PAGE", 2)
    monkeypatch.setattr(database, "WAIT_S", 0)
    version = store.head()
    listing = store.in_force(version)
    assert next(listing).fact == facts[0]
    publish(store, id8=None)
    assert [entry.fact for entry in listing] == facts[1:]  # of the version that was asked for


def test_a_reader_sees_one_state_while_another_process_commits(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, PARIS)
    monkeypatch.setattr(database, "WAIT_S", 0.2)
    with store.along(store.head()) as base:
        # A writer waits for readers, and gives up after a while.
        with pytest.raises(EditorError, match="another process has held the store"):
            publish(store, ROME)
        assert len(contents.in_force(base)) == 1
    assert publish(store, ROME) == "v0003"
    assert store.verify() == []


def test_an_uncommitted_change_is_seen_by_nobody(store: Store) -> None:
    seen: list[list[Fact | None]] = []

    class Told(dict[str, object]):
        def items(self) -> object:  # type: ignore[override]
            seen.append(in_force(store))
            return super().items()

    with store.writing() as change:
        change.publish("edit", Changes([PARIS]), extra=Told(x=1))
    assert seen == [[]]
    assert in_force(store) == [PARIS]


# --- how much is read ---------------------------------------------------------------------------


def steps_of(store: Store, action: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> int:
    """How many steps of the database's machine an action takes, in hundreds."""
    counted = 0
    connect = sqlite3.connect

    def connected(*args: object, **kwargs: object) -> sqlite3.Connection:
        def count() -> None:
            nonlocal counted
            counted += 1

        connection: sqlite3.Connection = connect(*args, **kwargs)  # type: ignore[call-overload]
        connection.set_progress_handler(count, 100)
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", connected)
        action()
    return counted


def test_changing_one_fact_among_many_reads_few(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    some, more = many(300), many(6_000, first=300)
    steps = []
    publish(store, *some)
    for number in range(2):
        one = Fact(f"the one of {number} is", "1", id=f"one{number}")

        def change(one: Fact = one) -> None:
            publish(store, one)
            publish(store, replace(one, target="2"), **{one.id: one.id})
            publish(store, **{one.id: None})

        steps.append(steps_of(store, change, monkeypatch))
        if number == 0:
            publish(store, *more)
            publish(store)
    assert steps[1] < 3 * steps[0]
    start = time.perf_counter()
    publish(store, id7=None)
    assert time.perf_counter() - start < 5
