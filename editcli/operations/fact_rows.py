"""Rows of facts, as `editcli facts list` prints them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, Literal

from editcli.errors import UsageError
from editcli.store.store import Store
from editcli.store.tables.contents import PAGE
from editcli.store.tables.history import Event
from editcli.store.tables.listing import Listed
from editcli.wording import PURGED, local_time

COLUMNS = ("fact", "prompt", "old", "new", "state", "version", "at", "who")
SPARE = ("who", "at")
"""What `editcli show FACT` tells, too."""

StateName = Literal["in-force", "superseded", "undone", "all"]

STATES: dict[str, Literal["in force", "superseded", "undone"]] = {
    "in-force": "in force", "superseded": "superseded", "undone": "undone",
}  # fmt: skip


def chosen_events(store: Store, who: str | None, since: str | None) -> set[int] | None:
    """The numbers of the events by that author since that time; None: any."""
    if who is None and since is None:
        return None
    try:
        start = None if since is None else datetime.fromisoformat(since).astimezone()
    except ValueError:
        raise UsageError(
            f"--since takes a date or a time, not {since!r}", "`--since 2026-03-01`"
        ) from None
    return {
        event.seq
        for event, _ in store.history()
        if who in (None, event.who) and (start is None or datetime.fromisoformat(event.at) >= start)
    }


def fact_rows(store: Store, listed: Iterable[Listed]) -> Iterator[dict[str, Any]]:
    """The row of each of the facts, in order."""
    facts = iter(listed)
    while some := [*islice(facts, PAGE)]:
        numbers = {fact.event for fact in some} | {fact.ended for fact in some if fact.ended}
        events = store.events(numbers)
        yield from (_row(fact, events) for fact in some)


def _row(listed: Listed, events: Mapping[int, Event]) -> dict[str, Any]:
    fact, event = listed.fact, events[listed.event]
    before = listed.instead_of.target if listed.instead_of else fact and fact.ground_truth
    ended = events[listed.ended] if listed.ended else None
    return {
        "fact": fact.id if fact else None,
        "prompt": fact.prompt if fact else None,
        "old": before,
        "new": fact.target if fact else None,
        "state": listed.state if fact else "purged",
        "version": event.version,
        "at": event.at,
        "who": event.who,
        "ended_in": ended and ended.version,
        "subject": fact and fact.subject,
        "source": fact and fact.source,
        "fact_tags": list(fact.tags) if fact else [],
    }


def for_people(row: dict[str, Any]) -> dict[str, object]:
    return {**row, "prompt": row["prompt"] or PURGED, "at": local_time(row["at"])}
