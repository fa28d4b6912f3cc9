"""A version and its history, as one self-contained HTML page.

This module gathers the content, and the templates lay it out. The page fetches nothing, and runs
one script, to search and sort, which its content security policy names by hash. Without it the page
is as complete.
All text is escaped, and control characters but line breaks are shown as escapes.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import PurePath

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from editcli import __version__
from editcli.cli.console import printable, printable_lines
from editcli.report import charts
from editcli.report.charts import Chart
from editcli.report.facts import facts_of
from editcli.report.heads import pruned_heads
from editcli.report.history import COLUMNS_DRAWN, authors_of, told_history
from editcli.report.scores import LISTED, NAMES, SETS_DRAWN, checks_of, curves_of, newest
from editcli.store.edits import described
from editcli.store.records import Version
from editcli.store.store import Store
from editcli.wording import counted
from editors import METHODS, EditorError

AUTHORS_LISTED = 50
TRIES = 3


def render(store: Store, version: Version) -> str:
    """The HTML of a report on ``version``, the same for the same store.

    Raises:
        EditorError: a part of the store that the page shows is missing or damaged, or the store is
            changed again and again while it is read.
    """
    for _ in range(TRIES):
        tip = store.tip()
        page = _page(store, version, tip)
        if store.tip() == tip:  # else parts of the page may be of different moments
            return page
    raise EditorError(
        "the store was changed while it was read",
        "run the command when nothing writes to the store",
    )


def _page(store: Store, version: Version, tip: str) -> str:
    edits = described(store, version)
    settings = {"layer": edits.layer, **edits.settings, **METHODS.load(edits.method).about(edits)}
    history, versions, ancestry = store.history(), store.versions(), store.ancestry(version)
    events = [event for event, _ in history]
    line = {ancestor.id for ancestor in ancestry}
    checks = checks_of(events, store.all_scores(), line)
    templates = _templates()
    style, script = (_source(templates, name) for name in ("style.css", "script.js"))
    authors, curves = authors_of(events), curves_of(checks)
    told = told_history(store, history, {v.id: v for v in versions}, checks)
    return templates.get_template("page.html").render(
        base=PurePath(store.config.base).name or store.config.base,
        generator=f"editcli {__version__}",
        style=style,
        script=script,
        policy=_policy(style, script),
        config=store.config,
        tip=tip,
        version=version,
        line=line,
        versions=versions,
        rejected={event.version for event in events if event.made and event.head != event.version},
        refs=store.refs(),
        edits=edits,
        settings=dict(sorted(settings.items())),
        authors=authors[:AUTHORS_LISTED],
        authors_left_out=len(authors) - AUTHORS_LISTED,
        checks=checks[: -LISTED - 1 : -1],
        checks_left_out=len(checks) - LISTED,
        newest_checks=newest(checks),
        curves=curves[:SETS_DRAWN],
        sets_left_out=len(curves) - SETS_DRAWN,
        growth=_growth(ancestry),
        score_names=NAMES,
        facts=facts_of(store, version, {event.seq: event for event in events}),
        entries=len(history),
        history=told,
        listed={entry.event.version for entry in told if entry.event.made},
        columns_drawn=COLUMNS_DRAWN,
        pruned_heads=pruned_heads(edits, templates),
    )


def _growth(ancestry: Sequence[Version]) -> Chart | None:
    """The number of facts in force from the first version to the shown one; None where there is
    one version. ``ancestry``: newest first."""
    counts = [0]
    for version in reversed(ancestry):
        changes = version.changes
        counts.append(counts[-1] + changes["added"] - changes["removed"] - changes["superseded"])
    names = [version.id for version in reversed(ancestry)]
    return charts.steps(counts[1:], names) if len(names) > 1 else None


def _source(templates: Environment, name: str) -> Markup:
    """A file of ours that stands in the page as it is, with line breaks as a browser reads them."""
    assert templates.loader is not None
    text = templates.loader.get_source(templates, name)[0]
    return Markup("\n".join(text.splitlines()))


def _policy(style: str, script: str) -> str:
    """A content security policy: nothing is loaded or sent, and nothing is run or obeyed but our
    script and our style, by their hashes."""

    def hashed(text: str) -> str:
        return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"

    rules = {
        "default-src": "'none'",
        "script-src": hashed(script),
        "style-src": hashed(style),
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


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
        "counted": counted, "lines": _lines, "listed": _listed, "three_digits": _three_digits,
        "utc": _utc,
    }  # fmt: skip
    return environment


def _shown(value: object) -> object:
    """Text with its control characters as escapes; None as nothing."""
    if value is None:
        return ""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _lines(text: str) -> Markup:
    """Text of others, with its line breaks."""
    return escape(printable_lines(text))


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
