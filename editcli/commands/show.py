"""`editcli show`: one version, or one fact and where it came from."""

from __future__ import annotations

import json as json_text
from collections.abc import Iterable, Mapping
from typing import Annotated

import typer

from editcli.cli.console import Output
from editcli.cli.context import local_time, open_store
from editcli.cli.options import JsonOption, QuietOption, StoreOption, VersionOption
from editcli.errors import UnknownVersion
from editcli.store import history
from editcli.store.ledger import Ledger, ancestry, full_id
from editcli.store.store import Store, Version
from editors import EditorError, Fact

SCORES = "scores.json"
HEAD_MASK = "head_mask.json"


def command(
    what: Annotated[
        str,
        typer.Argument(metavar="V|FACT", help="A version, or a fact by its id or the start of it."),
    ] = "HEAD",
    version: VersionOption = "HEAD",
    facts: Annotated[
        bool, typer.Option("--facts", help="Print the facts in force, as JSON Lines.")
    ] = False,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show a version, the facts in force in it, or one fact with its provenance.

    A fact is looked up in the version that --version names.

    \b
    Examples:
      editcli show
      editcli show v0003 --facts > facts.jsonl
      editcli show 1f3a5c7e9b0d --json
    """
    out = Output(json_mode=json, quiet=quiet)
    opened = open_store(store)
    try:
        shown = opened.version(what)
    except UnknownVersion as error:
        if "~" in what:
            raise
        where = opened.version(version)
        ledger = Ledger.of(opened, where)
        fact = _fact(opened, ledger, what, where, error.hint)
        if facts:
            out.json_line(fact.to_dict())
        else:
            said = _of_fact(opened, where, ledger, fact)
            out.record(said if json else _for_people(fact, said))
        return
    if facts:
        for fact in Ledger.of(opened, shown).in_force():
            out.json_line(fact.to_dict())
    else:
        out.record(_of_version(opened, shown, plain=json))


def _fact(store: Store, ledger: Ledger, what: str, where: Version, hint: str) -> Fact:
    """Raises EditorError that says where such a fact is, when it is not in this version.

    `hint` is what to say when there never was one.
    """
    try:
        return ledger.find(what)
    except EditorError as error:
        if any(fact.id.startswith(what) for fact in ledger.facts):
            raise
        events = store.history()
        ever = {fact_id for event in events for fact_id in event.added}
        if any(fact_id.startswith(what) for fact_id in ever):
            wanted = full_id(what, ever)
            last = [event.version for event in history.select(events, fact=wanted)][-1]
            raise EditorError(
                f"fact {wanted} is not in {where.id}", f"`editcli show {wanted} --version {last}`"
            ) from error
        raise EditorError(f"no version, tag or fact is called {what!r}", hint) from error


def _of_version(store: Store, version: Version, *, plain: bool) -> dict[str, object]:
    """All there is to say; `plain` keeps times in UTC and blobs with their digests, for JSON."""
    ledger = Ledger.of(store, version)
    scores = json_text.loads(store.read(version, SCORES)) if SCORES in version.blobs else None
    tags = [name for name, target in store.refs().items() if target == version.id]
    said: dict[str, object] = {
        "version": version.id,
        "parent": version.parent,
        "operation": version.operation,
        "created": version.created if plain else local_time(version.created),
        "author": version.author,
        "message": version.message,
        "tags": tags,
        "counts": {
            "facts": len(version.facts),
            "added": len(version.added),
            "removed": len(version.removed),
            "superseded": len(version.superseded),
            "ever": len(ledger.facts),
            "shards": len(ledger.shards),
        },
        "pruned": _pruned(store, version),
        "tools": dict(version.tools),
        "scores": scores,
    }
    if plain:
        return {
            **said,
            "facts": list(version.facts),
            "added": list(version.added),
            "removed": list(version.removed),
            "superseded": list(version.superseded),
            "blobs": dict(version.blobs),
            "config": version.config,
            "extra": dict(version.extra),
        }
    flat = {
        key: _flat(value) if isinstance(value, Mapping) else value for key, value in said.items()
    }
    flat["blobs"] = list(version.blobs)
    return {key: value for key, value in flat.items() if value not in (None, "", [])}


def _pruned(store: Store, version: Version) -> dict[str, object] | None:
    """Which source a version's pruned heads favour, and which they are."""
    if HEAD_MASK not in version.blobs:
        return None
    told = json_text.loads(store.read(version, HEAD_MASK))
    heads = [f"{layer}.{head}" for layer, head in told["heads"]]
    return {"prefer": told["prefer"], "scale": told["scale"], "at": told["at"], "heads": heads}


def _of_fact(store: Store, where: Version, ledger: Ledger, fact: Fact) -> dict[str, object]:
    line = ancestry(store, where)
    added = next((version for version in line if fact.id in version.added), None)
    closed = ledger.closed.get(fact.id)
    ended = None
    if closed:
        by = next((v for v in line if fact.id in (*v.removed, *v.superseded)), None)
        ended = {"why": closed.why, "by": closed.by, **_event(by)}
    return {
        "id": fact.id,
        "version": where.id,
        "in_force": closed is None,
        "closed": ended,
        "shard": ledger.shard_of(fact.id),
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


def _for_people(fact: Fact, said: Mapping[str, object]) -> dict[str, object]:
    """One line a field, the most wanted first."""
    closed, added = said["closed"], said["added"]
    state = "yes"
    if isinstance(closed, Mapping):
        by = f" by {closed['by']}" if closed["by"] else ""
        state = f"no: {closed['why']}{by}{_told(closed)}"
    return {
        "id": fact.id,
        "prompt": fact.prompt,
        "target": fact.target,
        f"in force in {said['version']}": state,
        "added": _told(added).strip(" ,") if isinstance(added, Mapping) else None,
        "shard": said["shard"],
        **{k: v for k, v in fact.to_dict().items() if k not in ("id", "prompt", "target")},
    }


def _told(event: Mapping[str, object]) -> str:
    if not event["version"]:
        return ""
    who = f" by {event['who']}" if event["who"] else ""
    why = f": {event['message']}" if event["message"] else ""
    return f", {event['version']} on {local_time(str(event['at']))}{who}{why}"


def _flat(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {_number(value)}" for key, value in _leaves(values))


def _leaves(values: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif key == "heads" and isinstance(value, list):
            yield f"{prefix}{key}", " ".join(str(item) for item in value)
        elif not isinstance(value, list):
            yield f"{prefix}{key}", value


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
