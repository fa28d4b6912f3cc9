"""`editcli log`: what was done to the store, when and by whom."""

from __future__ import annotations

from typing import Annotated

import typer

from editcli.cli.invocation import Invocation, local_time
from editcli.cli.options import READS, shared
from editcli.store import history
from editcli.store.history import Event
from editors.methods.edit_state import full_id

COLUMNS = ("version", "when", "who", "operation", "changes", "message", "tags")


@shared(*READS)
def command(
    call: Invocation,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="The newest N only.")
    ] = None,
    fact: Annotated[
        str | None, typer.Option("--fact", metavar="ID", help="Only what touched this fact.")
    ] = None,
    operation: Annotated[
        str | None, typer.Option("--operation", metavar="NAME", help="Only this operation.")
    ] = None,
    who: Annotated[
        str | None, typer.Option("--who", metavar="WHO", help="Only what this person did.")
    ] = None,
) -> None:
    """List what was done, newest first.

    That is: versions made, versions named, HEAD moved. Changes are counted: +added -removed
    ~superseded facts. With -q only the ids of new versions are printed.

    \b
    Examples:
      editcli log
      editcli log --limit 10 --who ann
      editcli log --fact 1f3a5c7e9b0d --json
    """
    everything = call.open_store().history()
    if fact is not None:
        touched = (i for e in everything for i in (*e.added, *e.removed, *e.superseded))
        fact = full_id(fact, touched)
    events = history.select(everything, fact=fact, operation=operation, who=who)[::-1]
    if call.quiet:
        events = tuple(event for event in events if event.manifest)
    names = _names(everything)
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
    made = {event.version: event.seq for event in events if event.manifest}
    names: dict[int, list[str]] = {}
    for name, version in {"HEAD": events[-1].head, **history.tags(events)}.items():
        names.setdefault(made[version], []).append(name)
    return names
