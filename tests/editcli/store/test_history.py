"""The history: its lines as a format, and their chain as a law."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_stores import CONFIG, store_with_a_past

from editcli.store.changes import Changes
from editcli.store.store import Store
from editcli.store.tables import database, history
from editcli.store.tables.history import Event
from editors import EditorError

words = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
ids = st.integers(1, 10**18 - 1).map(lambda number: f"v{number:04d}")
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
events = st.builds(
    Event,
    at=st.datetimes().map(lambda moment: moment.isoformat()),
    who=words,
    operation=words,
    version=ids,
    head=ids,
    made=st.booleans(),
    parent=ids | st.just(""),
    config=words,
    tag=st.just("") | st.text("aZ_", min_size=1, max_size=100),
    changes=st.fixed_dictionaries({kind: st.integers(0, 10**9) for kind in history.CHANGES}),
    content=digests,
    purged=st.lists(digests, max_size=2),
).map(lambda event: event if event.made else replace(event, changes={}))
BASE = Event(
    seq=2,
    at="2026-03-01T12:00:00+00:00",
    who="ann",
    operation="edit",
    version="v0002",
    head="v0002",
    made=True,
    parent="v0001",
    config="c",
    changes={"added": 1, "removed": 0, "superseded": 0},
    content="0" * 64,
    purged=[],
)


@pytest.fixture
def base(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    database.create(tmp_path / "store.db")
    with database.writing(tmp_path / "store.db") as connection:
        yield connection


@given(events)
def test_an_event_reads_back_as_it_was_written(event: Event) -> None:
    assert Event.from_line(event.to_line()) == event


def test_the_line_format_is_stable() -> None:
    event = replace(BASE, who="naïve")
    assert json.loads(event.to_line()) == {
        "seq": 2,
        "at": "2026-03-01T12:00:00+00:00",
        "who": "naïve",
        "operation": "edit",
        "version": "v0002",
        "head": "v0002",
        "made": True,
        "parent": "v0001",
        "config": "c",
        "tag": "",
        "changes": {"added": 1, "removed": 0, "superseded": 0},
        "content": "0" * 64,
        "purged": [],
        "previous": "0" * 64,
    }
    assert "naïve".encode() in event.to_line()
    assert history.line_digest(event.to_line()) == sha256(event.to_line()).hexdigest()


NAMES = ["../../precious", "/etc/passwd", "v1", "V0001", "v0001\n", "v٠٠٠١", "v" + "9" * 19, "nope"]


@pytest.mark.parametrize(
    "change",
    [
        *({key: name} for key in ("version", "head", "parent") for name in NAMES),
        *({"tag": tag} for tag in ("../../evil", "two words", "-x", "x\n", "t" * 101)),
        *({"purged": [digest]} for digest in ("../../precious", "F" * 64, "f" * 63, 7)),
        *({"content": text} for text in ("", "../../precious", "f" * 65)),
        *({"changes": c} for c in ({"added": -1}, {"added": True}, {"else": 1}, [])),
        *({key: value} for key in ("who", "operation", "tag", "at") for value in (None, 7, ["x"])),
        *({"seq": seq} for seq in ("2", 2.0, None)),
        *({"made": made} for made in (1, "yes", None)),
        *({"version": version} for version in ("", [], None)),
        *({"at": at} for at in ("", "yesterday", "2026-13-01")),
        {"previous": 0},
        {"more": 1},
    ],
)
def test_a_line_with_other_names_or_types_is_refused(change: dict[str, object]) -> None:
    line = json.dumps({**json.loads(BASE.to_line()), **change})
    with pytest.raises((ValueError, TypeError)):
        Event.from_line(line)


@pytest.mark.parametrize("line", ["", "{", "[]", "7", "{}", "[" * 100_000, '{"seq": 1e999}'])
def test_what_is_no_line_is_refused(line: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        Event.from_line(line)


@given(st.lists(events, min_size=1, max_size=4))
def test_appended_events_are_numbered_and_chained(given_events: list[Event]) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as base:
        for statement in database.SCHEMA.values():
            base.execute(statement)
        made: set[str] = set()
        expected, previous = [], history.GENESIS
        for event in given_events:
            if event.made and event.version in made:
                event = replace(event, made=False, changes={})
            made.add(event.version)
            appended = history.append(base, event)
            assert appended == replace(event, seq=len(expected) + 1, previous=previous)
            previous = history.line_digest(appended.to_line())
            expected.append(appended)
        assert history.events(base) == expected
        assert history.last_event(base) == expected[-1]


def test_what_could_not_be_read_again_is_not_appended(base: sqlite3.Connection) -> None:
    with pytest.raises(EditorError, match="line 1 of the history cannot be read"):
        history.append(base, replace(BASE, version="v1" + "0" * 18))


# --- a damaged history ----------------------------------------------------------------------------


def change_row(store: Store, seq: int, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the line of an event, and neither its hash nor what follows."""
    with closing(sqlite3.connect(store.path / "store.db")) as base, base:
        (line,) = base.execute("SELECT line FROM event WHERE seq = ?", (seq,)).fetchone()
        record = json.loads(line)
        change(record)
        base.execute("UPDATE event SET line = ? WHERE seq = ?", (json.dumps(record), seq))


@pytest.mark.parametrize("ref", ["HEAD~1", "v0002", "first"])
def test_a_version_whose_line_is_damaged_is_never_read(tmp_path: Path, ref: str) -> None:
    store = store_with_a_past(tmp_path / "s")
    with store.writing() as change:
        change.move_head("v3")
    change_row(store, 2, lambda record: record.update(who="mallory"))
    head = store.head()
    for call in (
        lambda: store.version(ref),
        lambda: store.ancestry(head),
        store.versions,
        store.history,
    ):
        with pytest.raises(EditorError, match="line 2 of the history cannot be read") as caught:
            call()
        assert caught.value.hint == "`editcli verify` lists the damage"
    assert len([*store.in_force(head)]) == 2  # the damage is elsewhere


def test_no_writer_builds_on_a_damaged_last_line(tmp_path: Path) -> None:
    store = store_with_a_past(tmp_path / "s")
    change_row(store, 5, lambda record: record.update(who="mallory"))
    refused = pytest.raises(EditorError, match="line 5 of the history cannot be read")
    with refused, store.writing():
        pass
    assert [problem.what for problem in store.verify()]


def test_damage_is_named_for_ever(tmp_path: Path) -> None:
    store = store_with_a_past(tmp_path / "s")
    change_row(store, 2, lambda record: record.update(who="mallory"))
    with store.writing() as change:
        change.publish("edit", Changes())
    assert "line 2 of the history cannot be read: it does not have its hash" in [
        problem.detail for problem in store.verify()
    ]


def test_a_store_with_an_empty_history_is_told_of(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", CONFIG)
    with closing(sqlite3.connect(store.path / "store.db")) as base, base:
        base.execute("DELETE FROM event")
        base.execute("DELETE FROM record")
    assert [p.detail for p in store.verify()] == ["the history holds no version"]
    for call in (store.head, store.refs, lambda: store.version("v1")):
        with pytest.raises(EditorError, match="the history holds no version"):
            call()
    with pytest.raises(EditorError, match="holds no version"), store.writing():
        pass
