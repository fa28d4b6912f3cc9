"""`editcli log`: what was done to the store, when and by whom."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from editcli.cli.invocation import Invocation
from editcli.cli.options import READS, shared
from editcli.store import history
from editcli.store.history import Event
from editcli.wording import local_time
from editors.methods.edit_state import full_id

COLUMNS = ("version", "when", "who", "operation", "changes", "message", "tags")


@shared(*READS)
def command(
    call: Invocation,
    limit: Annotated[
        int | None, Option(metavar="N", min=1, help="Only the newest N entries.")
    ] = None,
    fact: Annotated[
        str | None, Option(metavar="ID", help="Only entries that changed this fact.")
    ] = None,
    operation: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="Only this operation: init, edit, apply, undo, resolve, tag or checkout.",
        ),
    ] = None,
    who: Annotated[str | None, Option(metavar="WHO", help="Only entries by this author.")] = None,
) -> None:
    """List what was done, newest first.

    Each entry is a version made, a version tagged, or a move of HEAD. Changes count facts: +added
    -removed ~superseded. With -q, only the ids of new versions are printed.

    \b
    Examples:
      editcli log
      editcli log --limit 10 --who ann
      editcli log --fact 1f3a5c7e9b0d --json
    """
    all_events = call.open_store().history()
    if fact is not None:
        changed = (i for e in all_events for i in (*e.added, *e.removed, *e.superseded))
        fact = full_id(fact, changed)
    events = history.select(all_events, fact=fact, operation=operation, who=who)[::-1]
    if call.quiet:
        events = tuple(event for event in events if event.manifest)
    names = _names(all_events)
    row = _record if call.json else _row
    call.out.table((row(event, names.get(event.seq, [])) for event in events[:limit]), COLUMNS)


def _record(event: Event, names: list[str]) -> dict[str, object]:
    return {**event.to_dict(), "tags": names}


def _row(event: Event, names: list[str]) -> dict[str, object]:
    counts = (("+", event.added), ("-", event.removed), ("~", event.superseded))
    return {
        "version": event.version,
        "when": local_time(event.at),
        "who": event.who,
        "operation": event.operation,
        "changes": " ".join(f"{sign}{len(ids)}" for sign, ids in counts if ids),
        "message": event.message or (event.tag and f"as {event.tag}"),
        "tags": names,
    }


def _names(events: tuple[Event, ...]) -> dict[int, list[str]]:
    """HEAD and the tags, each under the `seq` of the event that made its version."""
    published = {event.version: event.seq for event in events if event.manifest}
    names: dict[int, list[str]] = {}
    for name, version in {"HEAD": events[-1].head, **history.tags(events)}.items():
        names.setdefault(published[version], []).append(name)
    return names
