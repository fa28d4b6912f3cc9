"""A version and its history, as one self-contained HTML page.

This module gathers the content, and the templates lay it out. The page fetches nothing and runs no
script. All text is escaped, and control characters are shown as escapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from pathlib import PurePath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from editcli import __version__
from editcli.cli.console import printable
from editcli.report.heads import pruned_heads
from editcli.store.edits import described
from editcli.store.records import Version
from editcli.store.store import Store
from editcli.store.tables.contents import Blob
from editcli.store.tables.history import Event
from editcli.wording import PURGED, counted
from editors import METHODS
from editors.methods.edit_state import HEAD_MASK

FACTS_LISTED = 5000  # in the table; a browser is slow with more
CHANGES_LISTED = 100  # in one event


def render(store: Store, version: Version) -> str:
    """The HTML of a report on ``version``, the same for the same store.

    Raises:
        EditorError: a part of the store that the page shows is missing or damaged.
    """
    edits = described(store, version)
    versions = store.versions()
    settings = {"layer": edits.layer, **edits.settings, **METHODS.load(edits.method).about(edits)}
    ancestry = store.ancestry(version)
    templates = _templates()
    return templates.get_template("page.html").render(
        base=PurePath(store.config.base).name or store.config.base,
        generator=f"editcli {__version__}",
        config=store.config,
        version=version,
        versions=versions,
        counts=_counts(versions),
        refs=store.refs(),
        edits=edits,
        settings=dict(sorted(settings.items())),
        pruned_heads=pruned_heads(edits, templates),
        events=[_told(store, event, message) for event, message in store.history()],
        pruning=_pruning(store, versions),
        closed=sum(v.changes["removed"] + v.changes["superseded"] for v in ancestry),
        entries=[*islice(store.in_force(version), FACTS_LISTED)],
        came_with={event.seq: event.version for event, _ in store.history() if event.made},
        facts_listed=FACTS_LISTED,
        changes_listed=CHANGES_LISTED,
    )


def _told(store: Store, event: Event, message: str | None) -> dict[str, Any]:
    """An event with its message and the first of its changes, by kind."""
    changes = store.changes(event.seq, CHANGES_LISTED) if any(event.changes.values()) else []
    kinds = {"added": "added", "superseded": "superseded", "removed": "taken back"}
    return {
        "event": event,
        "message": PURGED if message is None else message,
        "changes": [
            (heading, event.changes[kind], [c.fact for c in changes if c.kind == kind])
            for kind, heading in kinds.items()
            if event.changes.get(kind)
        ],
    }


def _counts(versions: Sequence[Version]) -> dict[str, int]:
    """By version, the number of facts in force."""
    counts = {"": 0}
    for version in versions:
        grown = version.changes["added"]
        grown -= version.changes["removed"] + version.changes["superseded"]
        counts[version.id] = counts[version.parent] + grown
    del counts[""]
    return counts


def _pruning(store: Store, versions: Sequence[Version]) -> dict[str, str]:
    """By version, how it changed which heads are pruned; empty where it did not."""
    told: dict[str, str] = {}
    masks: dict[str, Blob | None] = {"": None}
    for version in versions:
        masks[version.id] = mask = store.blobs(version).get(HEAD_MASK)
        told[version.id] = ""
        if mask == masks[version.parent]:
            continue
        pruning = described(store, version).pruning
        told[version.id] = "pruned heads put back"
        if pruning:
            heads = counted(len(pruning.mask.heads), "head")
            told[version.id] = f"{heads} pruned to prefer {pruning.prefer}"
    return told


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
    environment.filters |= {
        "counted": counted, "listed": _listed, "three_digits": _three_digits, "utc": _utc,
    }  # fmt: skip
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
