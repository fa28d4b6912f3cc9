"""`editcli show`: one version, or one fact and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from typer import Argument, Option

from editcli.cli.completion import complete_version_or_fact
from editcli.cli.options import READS, Invocation, VersionOption, shared
from editcli.errors import UnknownVersion
from editcli.store.edits import described
from editcli.store.reader import FactPast
from editcli.store.records import Version
from editcli.store.store import Store
from editcli.wording import local_time
from editors import METHODS, EditorError
from editors.heads.pruning import HeadPruning


@shared(*READS)
def command(
    call: Invocation,
    what: Annotated[
        str,
        Argument(
            metavar="V|FACT",
            help="A version, or a fact by its id or the start of it.",
            autocompletion=complete_version_or_fact,
        ),
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
    out, store, past = call.out, call.open_store(), None
    try:
        shown = store.version(what)
    except UnknownVersion as error:
        if "~" in what:
            raise
        shown = store.version(version)
        past = _past(store, shown, what, error.hint)
    if facts:
        found = [past.fact] if past else (entry.fact for entry in store.in_force(shown))
        for fact in found:
            if fact is not None:
                out.json_line(fact.to_dict())
    elif past:
        record = fact_record(store, shown, past)
        out.record(record if call.json else fact_lines(record))
    else:
        record = _version_record(store, shown)
        out.record(record if call.json else _version_lines(record))


# --- a version ------------------------------------------------------------------------------------


def _version_record(store: Store, version: Version) -> dict[str, Any]:
    blobs = store.blobs(version)
    edits = described(store, version, blobs)
    return {
        "version": version.id,
        "parent": version.parent or None,
        "operation": version.operation,
        "at": version.at,
        "who": version.who,
        "message": version.message,
        "tags": [name for name, target in store.refs().items() if target == version.id],
        "removed": version.id in store.removed(),
        "facts": store.count(version),
        "changes": dict(version.changes),
        **METHODS.load(edits.method).about(edits),
        "pruning": _pruning(edits.pruning) if edits.pruning else None,
        "tools": dict(version.tools),
        "extra": dict(version.extra),
        "config": version.config,
        "blobs": {name: blob.digest for name, blob in blobs.items()},
    }


def _pruning(pruning: HeadPruning) -> dict[str, object]:
    """Which source the pruned heads favour, and which they are."""
    mask = pruning.mask
    heads = [f"{layer}.{head}" for layer, head in mask.heads]
    return {"prefer": pruning.prefer, "scale": mask.scale, "positions": mask.at, "heads": heads}


FOR_PROGRAMS = ("extra", "config")


def _version_lines(record: Mapping[str, Any]) -> dict[str, object]:
    """One line a field, without those that are empty or for programs."""
    values = {**record, "at": local_time(record["at"]), "blobs": len(record["blobs"])}
    values["removed"] = "by `editcli gc --abandoned`" if record["removed"] else None
    lines = {key: _flat(value) for key, value in values.items() if key not in FOR_PROGRAMS}
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


def _past(store: Store, version: Version, what: str, hint: str) -> FactPast:
    """What happened up to ``version`` to the fact whose id is, or begins with, ``what``.

    Raises EditorError, which names a version that has the fact, or gives ``hint`` where none has.
    """
    if not store.ids_beginning(what):
        raise EditorError(f"no version, tag or fact is called {what!r}", hint)
    fact = store.full_id(what)
    if past := store.past(version, fact):
        return past
    last = max(store.about(fact))
    made = store.events([last])[last].version
    raise EditorError(
        f"fact {fact} is not in {version.id}", f"`editcli show {fact} --version {made}`"
    )


def fact_record(store: Store, version: Version, past: FactPast) -> dict[str, Any]:
    edits = described(store, version)
    closed = None
    if past.closure and past.closed_in:
        closure = past.closure
        how = {"reason": closure.reason, "replaced_by": closure.replaced_by}
        closed = {**how, **_event(past.closed_in)}
    return {
        "fact": past.fact.id,
        "version": version.id,
        "in_force": closed is None,
        **METHODS.load(edits.method).about_fact(edits, str(past.text)),
        "entered": _event(past.added_in),
        "ended": closed,
        "content": {"id": past.fact.id, **past.fact.to_dict()},
    }


def _event(version: Version) -> dict[str, Any]:
    """Which version, when, by whom and why."""
    return {
        "version": version.id,
        "at": version.at,
        "who": version.who,
        "message": version.message,
    }


# Not among the other lines of a fact, as others say the same in words.
IN_WORDS = ("version", "in_force", "ended", "entered", "content", "fact")


def fact_lines(record: Mapping[str, Any]) -> dict[str, object]:
    """One line a field, the most important first."""
    values = {**record, **record["content"]}
    closed, state = record["ended"], "yes"
    if closed:
        by = f" by {closed['replaced_by']}" if closed["replaced_by"] else ""
        state = f"no: {closed['reason']}{by}{_when(closed)}"
    for key in ("locality", "portability"):
        if key in values:
            values[key] = [*map(_probe, values[key])]
    return {
        **{key: values.pop(key) for key in ("id", "prompt", "target")},
        f"in force in {record['version']}": state,
        "added": _when(record["entered"]).strip(" ,"),
        **{key: value for key, value in values.items() if key not in IN_WORDS},
    }


def _probe(probe: Mapping[str, Any]) -> str:
    """A prompt that is measured beside a fact, in words."""
    kind = f" ({probe['kind']})" if "kind" in probe else ""
    return (
        f"{probe['prompt']} -> {probe['answer']}{kind}"
        if "answer" in probe
        else (f"{probe['prompt']}{kind}")
    )


def _when(event: Mapping[str, Any]) -> str:
    who = f" by {event['who']}" if event["who"] else ""
    why = f": {event['message']}" if event["message"] else ""
    return f", {event['version']} on {local_time(event['at'])}{who}{why}"
