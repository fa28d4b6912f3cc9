"""`editcli show`: one version, or one fact and where it came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Annotated

import typer

from editcli.cli.invocation import Invocation
from editcli.cli.options import READS, VersionOption, shared
from editcli.errors import UnknownVersion
from editcli.store import history
from editcli.store.edits import edits_of
from editcli.store.records import Version
from editcli.store.store import Store
from editcli.wording import local_time
from editors import METHODS, EditorError, Fact
from editors.heads.pruning import HeadPruning
from editors.methods.edit_state import EditState, full_id


@shared(*READS)
def command(
    call: Invocation,
    what: Annotated[
        str,
        typer.Argument(metavar="V|FACT", help="A version, or a fact by its id or the start of it."),
    ] = "HEAD",
    version: VersionOption = "HEAD",
    facts: Annotated[
        bool, typer.Option("--facts", help="Print the facts in force, as JSON Lines.")
    ] = False,
) -> None:
    """Show a version, its facts, or one fact with its provenance.

    --version names the version that a fact is looked up in.

    \b
    Examples:
      editcli show
      editcli show v0003 --facts > facts.jsonl
      editcli show 1f3a5c7e9b0d --json
    """
    out, store = call.out, call.open_store()
    try:
        shown = store.version(what)
    except UnknownVersion as error:
        if "~" in what:
            raise
        shown = store.version(version)
        edits = edits_of(store, shown)
        fact = _fact(store, edits, what, shown, error.hint)
        if facts:
            out.json_line(fact.to_dict())
        else:
            record = _fact_record(store, shown, edits, fact)
            out.record(record if call.json else _fact_lines(fact, record))
        return
    edits = edits_of(store, shown)
    if facts:
        for fact in edits.in_force():
            out.json_line(fact.to_dict())
    else:
        record = _version_record(store, shown, edits)
        out.record(record if call.json else _version_lines(record))


# --- a version ------------------------------------------------------------------------------------


def _version_record(store: Store, version: Version, edits: EditState) -> dict[str, object]:
    return {
        "version": version.id,
        "parent": version.parent,
        "operation": version.operation,
        "created": version.created,
        "author": version.author,
        "message": version.message,
        "tags": [name for name, target in store.refs().items() if target == version.id],
        "counts": {
            "facts": len(version.facts),
            "added": len(version.added),
            "removed": len(version.removed),
            "superseded": len(version.superseded),
            "ever": len(edits.facts),
            **METHODS.load(edits.method).about(edits),
        },
        "pruned": _pruned(edits.pruning) if edits.pruning else None,
        "tools": dict(version.tools),
        "facts": list(version.facts),
        "added": list(version.added),
        "removed": list(version.removed),
        "superseded": list(version.superseded),
        "blobs": dict(version.blobs),
        "config": version.config,
        "extra": dict(version.extra),
    }


def _pruned(pruning: HeadPruning) -> dict[str, object]:
    """Which source the pruned heads favour, and which they are."""
    heads = [f"{layer}.{head}" for layer, head in pruning.mask.heads]
    return {
        "prefer": pruning.prefer,
        "scale": pruning.mask.scale,
        "at": pruning.mask.at,
        "heads": heads,
    }


ONLY_JSON = ("facts", "added", "removed", "superseded", "config", "extra")


def _version_lines(record: Mapping[str, object]) -> dict[str, object]:
    """One line a field, without those that are empty or that only programs read."""
    lines = {
        key: _flat(value) if isinstance(value, Mapping) else value
        for key, value in record.items()
        if key not in ONLY_JSON
    }
    lines["created"] = local_time(str(record["created"]))
    blobs = record["blobs"]
    assert isinstance(blobs, Mapping)
    lines["blobs"] = list(blobs)
    return {key: value for key, value in lines.items() if value not in (None, "", [])}


def _flat(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in _leaves(values))


def _leaves(values: Mapping[str, object]) -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, list):
            yield key, " ".join(str(item) for item in value)
        else:
            yield key, f"{value:.4g}" if isinstance(value, float) else str(value)


# --- a fact ---------------------------------------------------------------------------------------


def _fact(store: Store, edits: EditState, what: str, version: Version, hint: str) -> Fact:
    """The fact of ``version`` whose id is, or begins with, ``what``.

    Raises EditorError, which names a version that has the fact, or gives ``hint`` where none has.
    """
    try:
        return edits.find(what)
    except EditorError as error:
        if any(fact.startswith(what) for fact in edits.facts):
            raise
        events = store.history()
        ids = {fact_id for event in events for fact_id in event.added}
        if any(fact_id.startswith(what) for fact_id in ids):
            wanted = full_id(what, ids)
            last = [event.version for event in history.select(events, fact=wanted)][-1]
            raise EditorError(
                f"fact {wanted} is not in {version.id}", f"`editcli show {wanted} --version {last}`"
            ) from error
        raise EditorError(f"no version, tag or fact is called {what!r}", hint) from error


def _fact_record(store: Store, version: Version, edits: EditState, fact: Fact) -> dict[str, object]:
    ancestry = store.ancestry(version)
    added = next((v for v in ancestry if fact.id in v.added), None)
    closure = edits.closed.get(fact.id)
    closed = None
    if closure:
        closing = next((v for v in ancestry if fact.id in (*v.removed, *v.superseded)), None)
        closed = {**asdict(closure), **_event(closing)}
    return {
        "id": fact.id,
        "version": version.id,
        "in_force": closure is None,
        "closed": closed,
        **METHODS.load(edits.method).about_fact(edits, fact.id),
        "added": _event(added) if added else None,
        "fact": {"id": fact.id, **fact.to_dict()},
    }


def _event(version: Version | None) -> dict[str, object]:
    """Which version, when, by whom and why."""
    if version is None:
        return {"version": None, "at": None, "who": None, "message": None}
    return {
        "version": version.id,
        "at": version.created,
        "who": version.author,
        "message": version.message,
    }


def _fact_lines(fact: Fact, record: Mapping[str, object]) -> dict[str, object]:
    """One line a field, the most important first."""
    shown_above = ("id", "version", "in_force", "closed", "added", "fact")
    closed, added = record["closed"], record["added"]
    state = "yes"
    if isinstance(closed, Mapping):
        by = f" by {closed['replaced_by']}" if closed.get("replaced_by") else ""
        state = f"no: {closed['reason']}{by}{_when(closed)}"
    return {
        "id": fact.id,
        "prompt": fact.prompt,
        "target": fact.target,
        f"in force in {record['version']}": state,
        "added": _when(added).strip(" ,") if isinstance(added, Mapping) else None,
        **{key: value for key, value in record.items() if key not in shown_above},
        **{k: v for k, v in fact.to_dict().items() if k not in ("id", "prompt", "target")},
    }


def _when(event: Mapping[str, object]) -> str:
    if not event["version"]:
        return ""
    who = f" by {event['who']}" if event["who"] else ""
    why = f": {event['message']}" if event["message"] else ""
    return f", {event['version']} on {local_time(str(event['at']))}{who}{why}"
