"""A version and how it came about, as one page: the store, its history, scores, heads and facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from editcli import __version__
from editcli.report.heads import HEAD_MASK, blob_json, of_heads
from editcli.report.html import figure, moment, page, pairs, quoted, said, section, table
from editcli.report.svg import steps
from editcli.store import history
from editcli.store.history import Event
from editcli.store.ledger import Ledger, ancestry
from editcli.store.store import Store, Version
from editors import Fact

SCORES = "scores.json"
HEADLINES = ("reliability", "generalization", "locality", "portability")
FACTS_LISTED = 5000  # in the table; a browser is slow beyond
CHANGES_LISTED = 100  # in one event
OPEN = 5  # facts in an event that are shown unasked
ARROW = '<span aria-label="gets the answer">→</span>'
NONE = '<span class="quiet">none</span>'


def render(store: Store, version: Version) -> str:
    """The HTML of a report on `version`, the same for the same store.

    Raises:
        EditorError: something that the page tells of is missing or damaged.
    """
    ledger = Ledger.of(store, version)
    versions = {other.id: other for other in store.versions()}
    parts = {
        "store": ("The store", _of_store(store, version, ledger)),
        "growth": ("Facts in force", _growth(list(versions.values()))),
        "scores": ("Scores", _scores(store, list(versions.values()))),
        "heads": ("Pruned heads", of_heads(store, version, ledger)),
        "history": ("History", _timeline(store, version, versions)),
        "facts": (f"Facts of {said(version.id)}", _facts(store, version, ledger)),
    }
    links = [f'<a href="#{name}">{heading}</a>' for name, (heading, body) in parts.items() if body]
    base = PurePath(store.config.base).name or store.config.base
    return page(
        f"What was edited into {base}: {version.id}",
        [
            f'<nav aria-label="On this page"><p>{" · ".join(links)}</p></nav>',
            *(section(name, heading, body) for name, (heading, body) in parts.items() if body),
        ],
        f"editcli {__version__}",
    )


# --- the store ------------------------------------------------------------------------------------


def _of_store(store: Store, version: Version, ledger: Ledger) -> list[str]:
    config = store.config
    tags = [name for name, target in store.refs().items() if target == version.id]
    settings = ", ".join(f"{key} {value}" for key, value in sorted(config.settings.items()))
    closed = len(ledger.closed)
    return [
        pairs(
            {
                "base": said(config.base),
                "revision": f"<code>{said(config.revision)}</code>" if config.revision else "",
                "fingerprint": f"<code>{said(config.fingerprint)}</code>",
                "method": said(f"{config.method}{f': {settings}' if settings else ''}"),
                "dtype": said(f"{config.dtype}, seed {config.seed}"),
                "version": " ".join([_link(version.id), *map(_badge, tags)]),
                "made": f"{moment(version.created)} UTC{_by(version.author)}",
                "message": quoted(version.message) if version.message else "",
                "facts": f"{len(version.facts)} in force, {closed} superseded or undone",
                "pruned heads": '<a href="#heads">see below</a>'
                if HEAD_MASK in version.blobs
                else NONE,
                "made with": said(", ".join(f"{k} {v}" for k, v in version.tools.items())),
            }
        )
    ]


def _growth(versions: Sequence[Version]) -> list[str]:
    if len(versions) < 2:
        return []
    counts = [len(version.facts) for version in versions]
    ends = [said(f"{v.id}: {len(v.facts)}") for v in (versions[0], versions[-1])]
    told = f"Facts in force over {len(counts)} versions, from {ends[0]} to {ends[1]}, "
    told += f"at most {max(counts)}"
    return [
        f"<figure>{steps(counts, told)}"
        f'<div class="ends"><span>{ends[0]}</span><span>at most {max(counts)}</span>'
        f"<span>{ends[1]}</span></div>"
        "<figcaption>One step for each version, in the order in which they were made."
        "</figcaption></figure>"
    ]


def _scores(store: Store, versions: Sequence[Version]) -> list[str]:
    found = {v.id: blob_json(store, v, SCORES) for v in versions if SCORES in v.blobs}
    flat = {name: dict(_headlines(scores)) for name, scores in found.items()}
    columns = sorted(
        dict.fromkeys(key for scores in flat.values() for key in scores),
        key=lambda key: HEADLINES.index(key.partition(",")[0]),
    )
    if not columns:
        return []
    rows = [
        [_link(name), *(figure(scores.get(key)) for key in columns)]
        for name, scores in flat.items()
    ]
    caption = "Scores saved with versions; 1 is best"
    return [table(["version", *columns], rows, caption=caption, numbers=columns)]


def _headlines(scores: Mapping[str, Any]) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for key in HEADLINES:
        value = scores.get(key)
        if isinstance(value, Mapping):
            found += [(f"{key}, {name}", part) for name, part in value.items() if _number(part)]
        elif _number(value):
            found.append((key, value))
    return found


# --- the history ----------------------------------------------------------------------------------


def _timeline(store: Store, shown: Version, versions: Mapping[str, Version]) -> list[str]:
    events = store.history()
    known = _ever(store, versions)
    names: dict[str, list[str]] = {}
    for name, target in {"HEAD": events[-1].head, **history.tags(events)}.items():
        names.setdefault(target, []).append(name)
    items = [
        _event(store, event, versions, known, names, shown=event.version == shown.id)
        for event in reversed(events)
    ]
    return [
        '<p class="quiet">Newest first; times are in UTC.</p>',
        '<ol class="timeline" reversed>\n' + "\n".join(items) + "\n</ol>",
    ]


def _ever(store: Store, versions: Mapping[str, Version]) -> dict[str, Fact]:
    """Every fact of every version; one without a child holds those of all its ancestors."""
    parents = {version.parent for version in versions.values()}
    tips = [version for version in versions.values() if version.id not in parents]
    return {fact.id: fact for tip in tips for fact in Ledger.of(store, tip).facts}


def _event(
    store: Store,
    event: Event,
    versions: Mapping[str, Version],
    known: Mapping[str, Fact],
    names: Mapping[str, Sequence[str]],
    *,
    shown: bool,
) -> str:
    if not event.manifest:
        done = f"named {_badge(event.tag)}" if event.tag else "made the current version"
        told = f"{_link(event.version)} {done}"
        return _item(event, told, [], "")
    version = versions[event.version]
    badges = [*names.get(version.id, ()), *(["this report"] if shown else [])]
    told = " ".join(
        [f"<strong>{event.version}</strong> {said(event.operation)}", *map(_badge, badges)]
    )
    parts = [_pruning(store, version, versions.get(version.parent))]
    for what, ids in (
        ("added", event.added),
        ("superseded", event.superseded),
        ("taken back", event.removed),
    ):
        if ids:
            parts.append(_changes(what, ids, known))
    kind = f' id="{event.version}"' + (' class="shown"' if shown else "")
    return _item(event, told, parts, kind)


def _item(event: Event, told: str, parts: Sequence[str], kind: str) -> str:
    line = f'<p>{told}{_by(event.who)}, <span class="quiet">{moment(event.at)}</span></p>'
    why = f"<p>{quoted(event.message)}</p>" if event.message else ""
    return f"<li{kind}>{line}{why}{''.join(parts)}</li>"


def _changes(what: str, ids: Sequence[str], known: Mapping[str, Fact]) -> str:
    count = f"{len(ids)} fact{'s' * (len(ids) != 1)} {what}"
    lines = "".join(
        f'<li>{_belief(known.get(i))}<span class="id quiet">{said(i)}</span></li>'
        for i in ids[:CHANGES_LISTED]
    )
    if (more := len(ids) - CHANGES_LISTED) > 0:
        lines += f"<li>and {more} more</li>"
    unasked = " open" if len(ids) <= OPEN else ""
    return f"<details{unasked}><summary>{count}</summary><ul>{lines}</ul></details>"


def _pruning(store: Store, version: Version, parent: Version | None) -> str:
    """What became of the pruned heads."""
    before = parent.blobs.get(HEAD_MASK) if parent else None
    now = version.blobs.get(HEAD_MASK)
    if now == before:
        return ""
    if now is None:
        return "<p>pruned heads put back</p>"
    told = blob_json(store, version, HEAD_MASK)
    heads = told.get("heads") or []
    return f"<p>{len(heads)} heads pruned to prefer {said(told.get('prefer'))}</p>"


# --- the facts ------------------------------------------------------------------------------------


def _facts(store: Store, version: Version, ledger: Ledger) -> list[str]:
    facts = ledger.in_force()
    if not facts:
        return ["<p>No fact is in force: the model answers as its base does.</p>"]
    since = {i: v.id for v in reversed(ancestry(store, version)) for i in v.added}
    rows = [
        [
            quoted(fact.prompt),
            quoted(fact.target),
            _link(since[fact.id]) if fact.id in since else "",
            f'<span class="id">{said(fact.id)}</span>',
            quoted(fact.source) if fact.source else "",
        ]
        for fact in facts[:FACTS_LISTED]
    ]
    columns = ["prompt", "answer", "since", "fact", "source"]
    if not any(fact.source for fact in facts):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    parts = [table(columns, rows)]
    if (more := len(facts) - FACTS_LISTED) > 0:
        command = said(f"editcli show {version.id} --facts")
        parts.append(f"<p>And {more} more: <code>{command}</code> prints all.</p>")
    return parts


# --- small pieces ---------------------------------------------------------------------------------


def _belief(fact: Fact | None) -> str:
    if fact is None:
        return ""
    return f"{quoted(fact.prompt)} {ARROW} <strong>{quoted(fact.target)}</strong> "


def _link(version: str) -> str:
    return f'<a href="#{said(version)}">{said(version)}</a>'


def _badge(name: str) -> str:
    return f'<span class="badge">{said(name)}</span>'


def _by(who: str) -> str:
    return f" by {said(who)}" if who else ""


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
