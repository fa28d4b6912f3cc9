"""A version and its history, as one self-contained HTML page.

This module gathers the content, and the templates lay it out. The page fetches nothing and runs no
script. All text is escaped, and control characters are shown as escapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import PurePath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from editcli import __version__
from editcli.cli.console import printable
from editcli.report.heads import pruned_heads
from editcli.store import history
from editcli.store.edits import edits_of
from editcli.store.history import Event
from editcli.store.records import Version
from editcli.store.store import Store
from editcli.wording import counted
from editors import METHODS, Fact
from editors.methods.edit_state import HEAD_MASK, EditState

FACTS_LISTED = 5000  # in the table; a browser is slow with more
CHANGES_LISTED = 100  # in one event
OPEN = 5  # facts of an event, up to which they are shown without a click


def render(store: Store, version: Version) -> str:
    """The HTML of a report on ``version``, the same for the same store.

    Raises:
        EditorError: a part of the store that the page shows is missing or damaged.
    """
    edits = edits_of(store, version)
    versions = store.versions()
    base = PurePath(store.config.base).name or store.config.base
    pruning = pruned_heads(edits)
    growth = _growth(versions)
    sections = {
        "store": "The store",
        "growth": "Facts in force" if growth else "",
        "heads": "Pruned heads" if pruning else "",
        "history": "History",
        "facts": f"Facts of {version.id}",
    }
    return (
        _templates()
        .get_template("page.html")
        .render(
            title=f"What was edited into {base}: {version.id}",
            generator=f"editcli {__version__}",
            sections={name: heading for name, heading in sections.items() if heading},
            config=store.config,
            method=_method(edits),
            version=version,
            tags=[name for name, target in store.refs().items() if target == version.id],
            closed=len(edits.closed),
            growth=growth,
            pruning=pruning,
            events=_events(store, version, versions),
            **_facts(store, version, edits),
        )
    )


def _method(edits: EditState) -> str:
    values = {"layer": edits.layer, **edits.settings, **METHODS.load(edits.method).about(edits)}
    listed = ", ".join(f"{key} {value}" for key, value in sorted(values.items()))
    return f"{edits.method}: {listed}" if listed else edits.method


def _growth(versions: Sequence[Version]) -> dict[str, Any] | None:
    """The number of facts in force, one step for each version."""
    if len(versions) < 2:
        return None
    counts = [len(version.facts) for version in versions]
    heights = [100 - 96 * count / max(1, *counts) for count in counts]
    steps = [f"{i},{y:.2f} {i + 1},{y:.2f}" for i, y in enumerate(heights)]
    first, last = (f"{v.id}: {len(v.facts)}" for v in (versions[0], versions[-1]))
    return {
        "title": f"Facts in force over {len(counts)} versions, from {first} to {last}, at most "
        f"{max(counts)}",
        "line": " ".join(steps),
        "count": len(counts),
        "most": max(counts),
        "first": first,
        "last": last,
    }


# --- the history ----------------------------------------------------------------------------------


def _events(store: Store, shown: Version, versions: Sequence[Version]) -> list[dict[str, Any]]:
    """The events of the history, newest first."""
    events = store.history()
    by_id = {version.id: version for version in versions}
    facts = _all_facts(store, versions)
    names: dict[str, list[str]] = {}
    for name, target in {"HEAD": events[-1].head, **history.tags(events)}.items():
        names.setdefault(target, []).append(name)
    entries = []
    for event in reversed(events):
        version = by_id[event.version]
        badges = names.get(event.version, []) + ["this report"] * (event.version == shown.id)
        entries.append(
            {
                "published": bool(event.manifest),
                "shown": bool(event.manifest) and event.version == shown.id,
                "version": event.version,
                "operation": event.operation,
                "tag": event.tag,
                "who": event.who,
                "at": event.at,
                "message": event.message,
                "names": badges,
                "pruning": _pruning(store, version, by_id.get(version.parent))
                if event.manifest
                else "",
                "changes": _changes(event, facts),
            }
        )
    return entries


def _all_facts(store: Store, versions: Sequence[Version]) -> dict[str, Fact]:
    """Every fact of every version; a version records the facts of all its ancestors too."""
    parents = {version.parent for version in versions}
    tips = [version for version in versions if version.id not in parents]
    return {key: fact for tip in tips for key, fact in edits_of(store, tip).facts.items()}


def _changes(event: Event, facts: Mapping[str, Fact]) -> list[dict[str, Any]]:
    groups = (
        ("added", event.added),
        ("superseded", event.superseded),
        ("taken back", event.removed),
    )
    return [
        {
            "count": counted(len(ids), "fact"),
            "what": what,
            "facts": [(fact, facts.get(fact)) for fact in ids[:CHANGES_LISTED]],
            "more": max(0, len(ids) - CHANGES_LISTED),
            "open": len(ids) <= OPEN,
        }
        for what, ids in groups
        if ids
    ]


def _pruning(store: Store, version: Version, parent: Version | None) -> str:
    """How a version changed which heads are pruned; empty where it did not."""
    before = parent.blobs.get(HEAD_MASK) if parent else None
    if version.blobs.get(HEAD_MASK) == before:
        return ""
    pruning = edits_of(store, version).pruning
    if pruning is None:
        return "pruned heads put back"
    return f"{counted(len(pruning.mask.heads), 'head')} pruned to prefer {pruning.prefer}"


# --- the facts ------------------------------------------------------------------------------------


def _facts(store: Store, version: Version, edits: EditState) -> dict[str, Any]:
    """The facts in force, each with the version that it came with."""
    facts = edits.in_force()
    since = {fact: v.id for v in reversed(store.ancestry(version)) for fact in v.added}
    return {
        "facts": [(fact, since.get(fact.id)) for fact in facts[:FACTS_LISTED]],
        "more_facts": max(0, len(facts) - FACTS_LISTED),
        "sources": any(fact.source for fact in facts),
    }


# --- templates ------------------------------------------------------------------------------------


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("editcli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {"listed": _listed, "three_digits": _three_digits, "utc": _utc}
    return environment


def _shown(value: object) -> object:
    """Text with its control characters as escapes; None as nothing."""
    if value is None:
        return ""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _three_digits(value: object, sign: bool = False) -> str:
    """A number as the tables show it; empty for anything else."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    rounded = round(value, 3) or 0.0  # never -0.000
    return f"{rounded:+.3f}" if sign else f"{rounded:.3f}"


def _utc(at: str) -> str:
    return f"{datetime.fromisoformat(at).astimezone(UTC):%Y-%m-%d %H:%M}"
