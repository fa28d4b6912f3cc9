"""`editcli log`: what was done to the store, when and by whom."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any

from typer import Option

from editcli.cli.completion import complete_author, complete_fact, complete_operation
from editcli.cli.options import READS, Invocation, shared
from editcli.cli.tree import drawn
from editcli.operations.scores.records import told_scores
from editcli.store.store import Store
from editcli.store.tables.history import Event
from editcli.wording import PURGED, local_time

COLUMNS = ("version", "when", "who", "operation", "changes", "message", "tags")
SIGNS = {"added": "+", "removed": "-", "superseded": "~"}


@shared(*READS)
def command(
    call: Invocation,
    limit: Annotated[
        int | None, Option(metavar="N", min=1, help="Only the newest N entries.")
    ] = None,
    fact: Annotated[
        str | None,
        Option(
            metavar="ID",
            help="Only entries that changed this fact.",
            autocompletion=complete_fact,
        ),
    ] = None,
    operation: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="Only this operation: init, edit, apply, undo, purge, compact, config, "
            "rebase, resolve, check, tag, checkout or gc.",
            autocompletion=complete_operation,
        ),
    ] = None,
    who: Annotated[
        str | None,
        Option(
            metavar="WHO",
            help="Only entries by this author.",
            autocompletion=complete_author,
        ),
    ] = None,
    graph: Annotated[
        bool, Option("--graph", help="Only versions, with lines to their parents.")
    ] = False,
) -> None:
    """List what was done, newest first.

    Each entry is a version made, checked or tagged, or a move of HEAD. Changes count facts: +added
    -removed ~superseded. A version that is "(removed)" was abandoned, and `editcli gc` took its
    content. With -q, only the ids of new versions are printed.

    \b
    Examples:
      editcli log
      editcli log --limit 10 --who ann
      editcli log --fact 1f3a5c7e9b0d --json
      editcli log --graph
    """
    store = call.open_store()
    about = None if fact is None else store.about(store.full_id(fact))
    wanted = (
        (event, message)
        for event, message in store.newest_first()
        if (about is None or event.seq in about)
        and operation in (None, event.operation)
        and who in (None, event.who)
        and (event.made or not (call.quiet or graph))
    )
    told = [*islice(wanted, limit)]
    checks = store.scores_of([event.seq for event, _ in told])
    names = _names(store)
    removed = store.removed()
    rows = [_row(event, message, names, checks.get(event.seq), removed) for event, message in told]
    if graph:
        for line, row in zip(drawn(rows), rows, strict=True):
            row["graph"] = line
    columns = ("graph", *COLUMNS) if graph and not call.quiet else COLUMNS
    call.out.table(rows if call.json else map(_for_people, rows), columns)


def _row(
    event: Event,
    message: str | None,
    names: Mapping[str, Sequence[str]],
    scores: dict[str, Any] | None,
    removed: Collection[str],
) -> dict[str, Any]:
    record = {key: getattr(event, key) for key in ("seq", "at", "who", "operation")}
    changes = {kind: event.changes.get(kind, 0) for kind in SIGNS}
    return {
        **record,
        "version": event.version or None,
        "head": event.head,
        "made": event.made,
        "parent": event.parent or None,
        "tag": event.tag or None,
        "message": message,
        "changes": changes,
        "tags": list(names.get(event.version, ())) if event.made else [],
        "scores": scores,
        "removed": event.made and event.version in removed,
        "content_hash": event.content,
        "previous_hash": event.previous,
    }


def _for_people(record: dict[str, Any]) -> dict[str, object]:
    changes = [f"{SIGNS[kind]}{count}" for kind, count in record["changes"].items() if count]
    message = PURGED if record["message"] is None else record["message"]
    if record["made"] and record["head"] != record["version"]:
        message = f"(rejected) {message}".strip()
    if record["removed"]:
        message = f"(removed) {message}".strip()
    return {
        **record,
        "when": local_time(record["at"]),
        "changes": " ".join(changes),
        "message": message or _pointed(record),
    }


def _pointed(record: dict[str, Any]) -> str:
    """What an entry about a tag or about scores says, in words."""
    if record["scores"]:
        return told_scores(record["scores"])
    if record["operation"] == "gc":
        return "content of abandoned versions"
    if not record["tag"]:
        return ""
    return f"as {record['tag']}" if record["version"] else f"no longer {record['tag']}"


def _names(store: Store) -> dict[str, list[str]]:
    """HEAD and the tags, each under the version that it names."""
    names: dict[str, list[str]] = {}
    for name, version in store.refs().items():
        names.setdefault(version, []).append(name)
    return names
