"""`editcli log`: what was done to the store, when and by whom."""

from __future__ import annotations

from typing import Annotated, Any

from typer import Option

from editcli.cli.options import READS, Invocation, shared
from editcli.store import history
from editcli.store.history import Event
from editcli.wording import local_time
from editors.methods.edit_state import full_id

COLUMNS = ("version", "when", "who", "operation", "changes", "message", "tags")
SIGNS = {"added": "+", "removed": "-", "superseded": "~"}


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
    rows = ({**event.to_dict(), "tags": names.get(event.seq, [])} for event in events[:limit])
    call.out.table(rows if call.json else map(_for_people, rows), COLUMNS)


def _for_people(record: dict[str, Any]) -> dict[str, object]:
    changes = [f"{SIGNS[kind]}{len(ids)}" for kind, ids in record["facts"].items() if ids]
    return {
        **record,
        "when": local_time(record["at"]),
        "changes": " ".join(changes),
        "message": record["message"] or (record["tag"] and f"as {record['tag']}"),
    }


def _names(events: tuple[Event, ...]) -> dict[int, list[str]]:
    """HEAD and the tags, each under the `seq` of the event that made its version."""
    published = {event.version: event.seq for event in events if event.manifest}
    names: dict[int, list[str]] = {}
    for name, version in {"HEAD": events[-1].head, **history.tags(events)}.items():
        names.setdefault(published[version], []).append(name)
    return names
