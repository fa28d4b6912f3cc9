"""The history as a format and a law, without a store around it."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from editcli.store import history
from editcli.store.history import Event
from editcli.store.records import TAG

words = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
ids = st.integers(1, 20000).map(lambda number: f"v{number:04d}")
fact_ids = st.lists(words, max_size=3).map(tuple)
tags = st.just("") | st.from_regex(TAG, fullmatch=True).filter(str.isascii)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Event], bytes]:
    """A sound history of at least one event, with its bytes."""
    events: list[Event] = []
    data = b""
    previous = history.GENESIS
    for seq in range(1, draw(st.integers(1, 5)) + 1):
        event = Event(
            seq=seq,
            at="2026-03-01T12:00:00+00:00",
            who=draw(words),
            operation=draw(words),
            version=draw(ids),
            head=draw(ids),
            message=draw(words),
            added=draw(fact_ids),
            removed=draw(fact_ids),
            superseded=draw(fact_ids),
            manifest=draw(words),
            tag=draw(tags),
            previous=previous,
        )
        line = event.to_line()
        previous = history.line_digest(line)
        events.append(event)
        data += line + b"\n"
    return events, data


def head_of(events: list[Event]) -> bytes:
    """What refs/HEAD holds after these events."""
    last = events[-1]
    digest = history.line_digest(last.to_line())
    return f"{last.head}\nhistory {last.seq} {digest}\n".encode()


@given(histories())
def test_a_history_reads_back_as_it_was_written(written: tuple[list[Event], bytes]) -> None:
    events, data = written
    chain = history.parse(data, head_of(events))
    assert list(chain.events) == events
    assert (chain.size, chain.torn, chain.problems) == (len(data), 0, ())
    assert chain.vouched == len(events)
    assert chain.refs(len(events)) == {"HEAD": head_of(events)}


@given(histories(), st.data())
def test_any_flipped_byte_breaks_the_chain_or_its_anchor(
    written: tuple[list[Event], bytes], data: st.DataObject
) -> None:
    events, intact = written
    damaged = bytearray(intact)
    damaged[data.draw(st.integers(0, len(intact) - 1))] ^= data.draw(st.integers(1, 255))
    assert history.parse(bytes(damaged), head_of(events)).problems


@given(histories(), st.data())
def test_no_line_vanishes_or_moves_unseen(
    written: tuple[list[Event], bytes], data: st.DataObject
) -> None:
    events, intact = written
    lines = [line + b"\n" for line in intact.split(b"\n")[:-1]]
    order = data.draw(st.lists(st.sampled_from(range(len(lines))), max_size=6))
    assume(order != list(range(len(lines))))
    rebuilt = b"".join(lines[index] for index in order)
    assert history.parse(rebuilt, head_of(events)).problems


@given(histories(), st.data())
def test_half_a_line_at_the_end_is_seen_as_torn_and_the_rest_is_sound(
    written: tuple[list[Event], bytes], data: st.DataObject
) -> None:
    events, intact = written
    start = len(intact) - len(events[-1].to_line()) - 1
    cut = data.draw(st.integers(start, len(intact) - 1))
    chain = history.parse(intact[:cut], head_of(events[:-1]) if events[:-1] else None)
    assert list(chain.events) == events[:-1]
    assert (chain.size, chain.torn, chain.problems) == (start, cut - start, ())
    assert history.parse(intact[:cut], head_of(events)).problems  # acknowledged: this is damage


@given(histories())
def test_a_history_may_run_ahead_of_its_anchor(written: tuple[list[Event], bytes]) -> None:
    events, data = written
    for count in range(1, len(events) + 1):
        chain = history.parse(data, head_of(events[:count]))
        assert (chain.vouched, chain.problems) == (count, ())


@pytest.mark.parametrize("head", [b"", b"v0001\n", b"v1\nhistory 1 " + b"a" * 64 + b"\n"])
def test_head_is_read_strictly(head: bytes) -> None:
    assert history.parse(b"", head).problems == ("refs/HEAD: cannot be read",)


def test_a_head_that_names_another_version_is_at_fault_and_not_the_history() -> None:
    event = Event(at="", who="", operation="tag", version="v0001", head="v0001", message="")
    chain, line = history.parse(b"", None).plus(event)
    head = chain.refs(0)["HEAD"]
    assert history.parse(line, head).problems == ()
    wrong = history.parse(line, head.replace(b"v0001", b"v0002"))
    assert wrong.problems == ("refs/HEAD: names v0002, the history says v0001",)


@pytest.mark.parametrize(
    "change",
    [
        {"version": "../../evil"},
        {"version": "v1"},
        {"version": ["v0001"]},
        {"head": "nope"},
        {"tag": "../../evil"},
        {"tag": "two words"},
        {"facts": {"who": ["ann"]}},
    ],
)
def test_a_line_whose_names_could_be_paths_or_other_keys_is_damage(change: object) -> None:
    event = Event(seq=1, at="", who="", operation="tag", version="v0001", head="v0001", message="")
    record = {**json.loads(event.to_line()), **change}  # type: ignore[dict-item]
    data = json.dumps(record).encode() + b"\n"
    assert history.parse(data, None).problems == ("history.jsonl: line 1 cannot be read",)


@given(histories())
def test_an_appended_event_is_numbered_and_chained(written: tuple[list[Event], bytes]) -> None:
    events, data = written
    chain, lines = history.parse(b"", None), b""
    for event in events:
        chain, line = chain.plus(replace(event, seq=0, previous=""))
        lines += line
    assert lines == data
    assert replace(chain, vouched=len(events)) == history.parse(data, head_of(events))


def test_the_line_format_is_stable() -> None:
    event = Event(
        seq=2,
        at="2026-03-01T12:00:00+00:00",
        who="ann",
        operation="edit",
        version="v0002",
        head="v0002",
        message="naïve",
        added=("a1",),
        manifest="m",
        previous="0" * 64,
    )
    record = json.loads(event.to_line())
    assert record == {
        "seq": 2,
        "at": "2026-03-01T12:00:00+00:00",
        "who": "ann",
        "operation": "edit",
        "version": "v0002",
        "head": "v0002",
        "message": "naïve",
        "facts": {"added": ["a1"], "removed": [], "superseded": []},
        "manifest": "m",
        "tag": "",
        "previous": "0" * 64,
    }
    assert "naïve".encode() in event.to_line()
    assert history.line_digest(event.to_line()) == sha256(event.to_line()).hexdigest()


def test_every_damaged_line_is_named() -> None:
    problems = history.parse(b"[]\n{\n", None).problems
    assert problems == (
        "history.jsonl: line 1 cannot be read",
        "history.jsonl: line 2 cannot be read",
    )


def test_events_are_selected_by_fact_operation_and_author() -> None:
    def event(seq: int, operation: str, who: str, **facts: tuple[str, ...]) -> Event:
        name = f"v{seq:04d}"
        return Event(
            seq=seq, at="", who=who, operation=operation, version=name, head=name, message="",
            **facts,
        )  # fmt: skip

    events = (
        event(1, "edit", "ann", added=("x",)),
        event(2, "edit", "bob", added=("y",), superseded=("x",)),
        event(3, "undo", "ann", removed=("y",)),
    )

    def selected(**wanted: str) -> list[int]:
        return [event.seq for event in history.select(events, **wanted)]

    assert selected() == [1, 2, 3]
    assert selected(fact="x") == [1, 2]
    assert selected(fact="y") == [2, 3]
    assert selected(operation="edit", who="ann") == [1]
