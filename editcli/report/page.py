"""A version and its history, as one self-contained HTML page.

This module gathers the content, and the templates lay it out. The page fetches nothing and runs no
script. All text is escaped, and control characters are shown as escapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import PurePath

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from editcli import __version__
from editcli.cli.console import printable
from editcli.report.heads import pruned_heads
from editcli.store.edits import edits_of
from editcli.store.records import Version
from editcli.store.store import Store
from editcli.wording import counted
from editors import METHODS
from editors.methods.edit_state import HEAD_MASK

FACTS_LISTED = 5000  # in the table; a browser is slow with more
CHANGES_LISTED = 100  # in one event


def render(store: Store, version: Version) -> str:
    """The HTML of a report on ``version``, the same for the same store.

    Raises:
        EditorError: a part of the store that the page shows is missing or damaged.
    """
    edits = edits_of(store, version)
    versions = store.versions()
    by_id = {v.id: v for v in versions}
    # A version records the facts of all its ancestors too.
    tips = by_id.keys() - {v.parent for v in versions}
    settings = {"layer": edits.layer, **edits.settings, **METHODS.load(edits.method).about(edits)}
    templates = _templates()
    return templates.get_template("page.html").render(
        base=PurePath(store.config.base).name or store.config.base,
        generator=f"editcli {__version__}",
        config=store.config,
        version=version,
        versions=versions,
        refs=store.refs(),
        edits=edits,
        settings=dict(sorted(settings.items())),
        pruned_heads=pruned_heads(edits, templates),
        events=store.history(),
        pruning={v.id: _pruning(store, v, by_id.get(v.parent)) for v in versions},
        all_facts={key: fact for tip in tips for key, fact in edits_of(store, tip).facts.items()},
        came_with={fact: v.id for v in reversed(store.ancestry(version)) for fact in v.added},
        facts_listed=FACTS_LISTED,
        changes_listed=CHANGES_LISTED,
    )


def _pruning(store: Store, version: Version, parent: Version | None) -> str:
    """How a version changed which heads are pruned; empty where it did not."""
    before = parent.blobs.get(HEAD_MASK) if parent else None
    if version.blobs.get(HEAD_MASK) == before:
        return ""
    pruning = edits_of(store, version).pruning
    if pruning is None:
        return "pruned heads put back"
    return f"{counted(len(pruning.mask.heads), 'head')} pruned to prefer {pruning.prefer}"


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
