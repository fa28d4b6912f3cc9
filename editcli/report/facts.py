"""The part of a report about facts: old answers beside new ones, and where each came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from editcli.store.records import Version
from editcli.store.store import Store
from editcli.store.tables.history import Event
from editcli.store.tables.listing import Listed, Wanted
from editors import Fact

LISTED = 20_000  # in the table; a browser takes seconds for as many

State = Literal["in force", "superseded", "taken back", "purged"]
STATES: tuple[State, ...] = ("in force", "superseded", "taken back", "purged")


@dataclass(frozen=True, slots=True)
class Row:
    """A fact (None: purged) with what became of it. ``old``: the answer before, None where no
    record has it; ``old_from``: where that answer is from. ``made``: the event that brought it in
    force; ``ended``: the one that ended that, and ``how`` if it did not purge what was purged
    since. ``authors``: who says so, then who entered it if
    that is another."""

    fact: Fact | None
    old: str | None
    old_from: Literal["", "edit", "file"]
    state: State
    made: Event
    ended: Event | None
    how: str
    authors: Sequence[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """The newest facts as ``rows``, and how many of all are in each state; ``left_out``: of those
    that are not among the rows."""

    rows: Sequence[Row]
    states: Mapping[State, int]
    left_out: Mapping[State, int]


def facts_of(store: Store, version: Version, events: Mapping[int, Event]) -> Facts:
    """The facts that are in force in a version, or were in one that led to it; newest first.
    ``events``: all of the history, by number."""
    every = Wanted(states=frozenset({"in force", "superseded", "undone"}))
    rows: list[Row] = []
    states: Counter[State] = Counter()
    for listed in store.list_facts(version, every):
        states[_state(listed)] += 1
        if len(rows) < LISTED:
            rows.append(_row(listed, events))
    shown = Counter(row.state for row in rows)
    return Facts(
        rows,
        {state: states[state] for state in STATES if states[state]},
        {state: states[state] - shown[state] for state in STATES if states[state] > shown[state]},
    )


def _state(listed: Listed) -> State:
    if listed.fact is None:
        return "purged"
    return _ending(listed)


def _ending(listed: Listed) -> Literal["in force", "superseded", "taken back"]:
    return "taken back" if listed.state == "undone" else listed.state


def _row(listed: Listed, events: Mapping[int, Event]) -> Row:
    fact, made = listed.fact, events[listed.event]
    given = fact.ground_truth if fact else None
    ended = events[listed.ended] if listed.ended else None
    purged_since = fact is None and ended is not None and ended.operation != "purge"
    authors = [fact.author or "" if fact else "", made.who]
    return Row(
        fact=fact,
        old=listed.instead_of.target if listed.instead_of else given,
        old_from="edit" if listed.instead_of else "file" if given else "",
        state=_state(listed),
        made=made,
        ended=ended,
        how=_ending(listed) if purged_since else "",
        authors=list(dict.fromkeys(filter(None, authors))),
    )
