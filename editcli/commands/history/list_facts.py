"""`editcli facts list`: the facts of a version with their ids, what became of them, and by whom."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import Annotated, Any, Literal

from typer import Option

from editcli.cli.options import READS, Invocation, VersionOption, shared
from editcli.errors import UsageError
from editcli.store.history import Event
from editcli.store.listing import Listed, Wanted
from editcli.wording import PURGED, local_time

COLUMNS = ("fact", "prompt", "old", "new", "state", "version", "at", "who")
ON_A_TERMINAL = 50  # facts, unless `--limit` says otherwise

StateName = Literal["in-force", "superseded", "undone", "all"]


@shared(*READS)
def command(
    call: Invocation,
    version: VersionOption = "HEAD",
    match: Annotated[
        str,
        Option(metavar="TEXT", help="Only facts with this text in prompt, target or a name."),
    ] = "",
    tag: Annotated[
        list[str] | None, Option(metavar="TAG", help="Only facts with this tag of their own.")
    ] = None,
    source: Annotated[
        str, Option(metavar="TEXT", help="Only facts with this text in their source.")
    ] = "",
    who: Annotated[str | None, Option(metavar="WHO", help="Only facts by this author.")] = None,
    since: Annotated[
        str | None,
        Option(metavar="WHEN", help="Only facts since then: 2026-03-01, or with a time."),
    ] = None,
    state: Annotated[StateName, Option(help="Which facts, by what became of them.")] = "in-force",
    limit: Annotated[
        int | None,
        Option(
            metavar="N",
            min=0,
            help="Only the newest N; 0 for all, which is the default but on a terminal.",
        ),
    ] = None,
) -> None:
    """List facts, the newest first: their ids, old and new answers, when and by whom.

    `editcli undo FACT` takes one back by its id, and `editcli show FACT` tells more about it. The
    old answer is that of the fact before, or the one that the fact itself names.

    \b
    Examples:
      editcli facts list
      editcli facts list --match Italy
      editcli facts list --state all --since 2026-03-01 --who ann --json
    """
    store, out = call.open_store(), call.out
    chosen = store.version(version)
    events = {event.seq: event for event, _ in store.history()}
    wanted = Wanted(
        states=("in force", "superseded", "undone") if state == "all" else (_STATES[state],),
        match=match,
        tags=tag or (),
        source=source,
        events=_events(events, who, since),
    )
    listed = store.list_facts(chosen, wanted)
    default = ON_A_TERMINAL if out.terminal else 0
    most = (default if limit is None else limit) or None
    rows = (_row(fact, events) for fact in islice(listed, most))
    out.table(rows if call.json else map(_for_people, rows), COLUMNS)
    if most and limit is None and next(listed, None):
        out.note(f"these are the newest {most}; `editcli facts list --limit 0` lists all")


_STATES: dict[str, Literal["in force", "superseded", "undone"]] = {
    "in-force": "in force", "superseded": "superseded", "undone": "undone",
}  # fmt: skip


def _events(events: dict[int, Event], who: str | None, since: str | None) -> set[int] | None:
    """The events by that author since that time; None: any."""
    if who is None and since is None:
        return None
    try:
        start = None if since is None else datetime.fromisoformat(since).astimezone()
    except ValueError:
        raise UsageError(
            f"--since takes a date or a time, not {since!r}", "`--since 2026-03-01`"
        ) from None
    return {
        seq
        for seq, event in events.items()
        if who in (None, event.who) and (start is None or datetime.fromisoformat(event.at) >= start)
    }


def _row(listed: Listed, events: dict[int, Event]) -> dict[str, Any]:
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
        "ended": ended and ended.version,
        "subject": fact and fact.subject,
        "source": fact and fact.source,
        "tags": list(fact.tags) if fact else [],
    }


def _for_people(row: dict[str, Any]) -> dict[str, object]:
    return {**row, "prompt": row["prompt"] or PURGED, "at": local_time(row["at"])}
