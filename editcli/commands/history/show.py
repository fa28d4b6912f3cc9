"""`editcli show`: one version, or one fact and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from typer import Argument, Option

from editcli.cli.options import READS, Invocation, VersionOption, shared
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
        str, Argument(metavar="V|FACT", help="A version, or a fact by its id or the start of it.")
    ] = "HEAD",
    version: VersionOption = "HEAD",
    facts: Annotated[
        bool, Option("--facts", help="Print the facts in force, as JSON Lines.")
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
    out, store, fact = call.out, call.open_store(), None
    try:
        shown = store.version(what)
        edits = edits_of(store, shown)
    except UnknownVersion as error:
        if "~" in what:
            raise
        shown = store.version(version)
        edits = edits_of(store, shown)
        fact = _fact(store, edits, what, shown, error.hint)
    if facts:
        for each in [fact] if fact else edits.in_force():
            out.json_line(each.to_dict())
    elif fact:
        record = _fact_record(store, shown, edits, fact)
        out.record(record if call.json else _fact_lines(record))
    else:
        record = _version_record(store, shown, edits)
        out.record(record if call.json else _version_lines(record))


# --- a version ------------------------------------------------------------------------------------


def _version_record(store: Store, version: Version, edits: EditState) -> dict[str, Any]:
    record = asdict(version)
    counts = {key: len(record[key]) for key in ("facts", "added", "removed", "superseded")}
    return {
        "version": record.pop("id"),
        **record,
        "tags": [name for name, target in store.refs().items() if target == version.id],
        "counts": {**counts, "ever": len(edits.facts), **METHODS.load(edits.method).about(edits)},
        "pruned": _pruned(edits.pruning) if edits.pruning else None,
    }


def _pruned(pruning: HeadPruning) -> dict[str, object]:
    """Which source the pruned heads favour, and which they are."""
    mask = pruning.mask
    heads = [f"{layer}.{head}" for layer, head in mask.heads]
    return {"prefer": pruning.prefer, "scale": mask.scale, "at": mask.at, "heads": heads}


# What people read of a version; the other keys are for programs.
VERSION_LINES = (
    *("version", "parent", "operation", "created", "author", "message"),
    *("tags", "counts", "pruned", "tools", "blobs"),
)


def _version_lines(record: Mapping[str, Any]) -> dict[str, object]:
    """One line a field, without those that are empty."""
    created, blobs = local_time(record["created"]), list(record["blobs"])
    values = {**record, "created": created, "blobs": blobs}
    lines = {key: _flat(values[key]) for key in VERSION_LINES}
    return {key: value for key, value in lines.items() if value not in (None, "", [])}


def _flat(value: object) -> object:
    """A mapping as text: each key, and its value as a word or words."""
    if not isinstance(value, Mapping):
        return value
    return ", ".join(f"{key} {_words(item)}" for key, item in value.items())


def _words(item: object) -> str:
    if isinstance(item, list):
        return " ".join(map(str, item))
    return f"{item:.4g}" if isinstance(item, float) else str(item)


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


def _fact_record(store: Store, version: Version, edits: EditState, fact: Fact) -> dict[str, Any]:
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


def _event(version: Version | None) -> dict[str, Any]:
    """Which version, when, by whom and why."""
    keys = {"version": "id", "at": "created", "who": "author", "message": "message"}
    return {key: getattr(version, name, None) for key, name in keys.items()}


# Not among the other lines of a fact, as others say the same in words.
IN_WORDS = ("version", "in_force", "closed", "added", "fact")


def _fact_lines(record: Mapping[str, Any]) -> dict[str, object]:
    """One line a field, the most important first."""
    values = {**record, **record["fact"]}
    closed, added, state = record["closed"], record["added"], "yes"
    if closed:
        by = f" by {closed['replaced_by']}" if closed.get("replaced_by") else ""
        state = f"no: {closed['reason']}{by}{_when(closed)}"
    return {
        **{key: values.pop(key) for key in ("id", "prompt", "target")},
        f"in force in {record['version']}": state,
        "added": _when(added).strip(" ,") if added else None,
        **{key: value for key, value in values.items() if key not in IN_WORDS},
    }


def _when(event: Mapping[str, Any]) -> str:
    if not event["version"]:
        return ""
    who = f" by {event['who']}" if event["who"] else ""
    why = f": {event['message']}" if event["message"] else ""
    return f", {event['version']} on {local_time(event['at'])}{who}{why}"
