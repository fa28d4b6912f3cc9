"""The part of a report about the history: what was done, newest first, and how versions branch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from editcli.cli.tree import Place, placed
from editcli.report.scores import Check
from editcli.store.edits import described
from editcli.store.records import Version, version_id
from editcli.store.store import Store
from editcli.store.tables.contents import Blob, Change
from editcli.store.tables.history import Event
from editcli.wording import PURGED, counted
from editors import Fact
from editors.methods.edit_state import HEAD_MASK

ENTRIES_LISTED = 2000
CHANGES_LISTED = 100  # of one entry
COLUMNS_DRAWN = 12  # what lies further right is drawn in the last of them

_TAKEN_BACK = {"removed": "taken back", "superseded": "superseded"}


@dataclass(frozen=True, slots=True)
class Answered:
    """A prompt whose answer changed: from ``old``, None where no edit gave one, to ``new``, None
    where none does any more. ``fact``: the new one, else the old one; None if it was purged."""

    fact: Fact | None
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class Told:
    """An entry of the history. ``message``: None if it was purged. ``place``: where its version
    stands in the drawing, for one that made a version; ``columns``: how many lie below.
    ``rejected``: why its version did not become the current one; None if it did.
    ``removed``: nothing used the version any more, and its content was removed. ``branched``: its
    parent is not the version before. ``summary``: what it did to facts, in words; ``changes``:
    the first of it, and ``left_out`` how much more there is. ``heads``: what it did to heads;
    ``checks``: what it measured, in each form of asking."""

    event: Event
    message: str | None
    place: Place | None
    columns: int
    rejected: str | None
    removed: bool
    branched: bool
    summary: str
    changes: Sequence[Answered]
    left_out: int
    heads: str
    checks: Sequence[Check]

    @property
    def width(self) -> int:
        """The number of columns that its part of the drawing takes."""
        return max(self.columns, self.place.column + 1 if self.place else 0)


def told_history(
    store: Store,
    history: Sequence[tuple[Event, str | None]],
    versions: Mapping[str, Version],
    checks: Sequence[Check],
) -> list[Told]:
    """The newest entries of ``history``, newest first. ``versions``: all, by id."""
    shown = [*reversed(history[-ENTRIES_LISTED:])]
    made = [event for event, _ in shown if event.made]
    places = placed([{"version": event.version, "parent": event.parent} for event in made])
    place_of = {event.seq: place for event, place in zip(made, places, strict=True)}
    changing = [event.seq for event in made if any(event.changes.values())]
    changes = store.changes_of(changing, CHANGES_LISTED)
    removed = frozenset(store.removed())
    heads = _heads(store, versions, made, removed)
    checks_by: dict[int, list[Check]] = {}
    for check in checks:
        checks_by.setdefault(check.event.seq, []).append(check)
    told, columns = [], 0
    for event, message in shown:
        place = place_of.get(event.seq)
        columns = place.below if place else columns
        version = versions[event.version] if event.made else None
        answered = _answered(changes.get(event.seq, []))
        told.append(
            Told(
                event=event,
                message=PURGED if message is None else message,
                place=place,
                columns=columns,
                rejected=_why_rejected(event, version) if version else None,
                removed=event.made and event.version in removed,
                branched=bool(version and version.number > 1 and _jumps(version)),
                summary=_summary(event.changes),
                changes=answered,
                left_out=_left_out(event, changes.get(event.seq, [])),
                heads=heads.get(event.seq, ""),
                checks=checks_by.get(event.seq, ()),
            )
        )
    return told


def _jumps(version: Version) -> bool:
    return version.parent != version_id(version.number - 1)


def _why_rejected(event: Event, version: Version) -> str | None:
    """The minima that a version missed; None where it became the current one."""
    if event.head == event.version:
        return None
    missed = version.extra.get("rejected")
    words = [text for text in missed if isinstance(text, str)] if isinstance(missed, list) else []
    return "; ".join(words)


def _summary(changes: Mapping[str, int]) -> str:
    words = [("added", changes.get("added", 0))]
    words += [(word, changes.get(kind, 0)) for kind, word in _TAKEN_BACK.items()]
    parts = [(word, count) for word, count in words if count]
    return ", ".join(
        f"{count} {word}" if n else f"{counted(count, 'fact')} {word}"
        for n, (word, count) in enumerate(parts)
    )


def _left_out(event: Event, changes: Sequence[Change]) -> int:
    return max(0, sum(event.changes.values()) - len(changes))


def _answered(changes: Sequence[Change]) -> list[Answered]:
    """The changes, each fact that took the place of another beside it."""
    replaced = {change.by: change.fact for change in changes if change.by and change.fact}
    added = [change.fact for change in changes if change.kind == "added"]
    before = {fact: replaced.get(fact.id) for fact in added if fact}
    rows = [
        Answered(fact, _target(before[fact]) if fact else None, _target(fact)) for fact in added
    ]
    rows += [
        Answered(change.fact, _target(change.fact), None)
        for change in changes
        if change.kind != "added" and (change.fact is None or change.fact not in before.values())
    ]
    return rows


def _target(fact: Fact | None) -> str | None:
    return fact.target if fact else None


def _heads(
    store: Store,
    versions: Mapping[str, Version],
    made: Sequence[Event],
    removed: Collection[str],
) -> dict[int, str]:
    """By event, how it changed which heads are pruned, where it did. Of ``removed`` versions there
    is nothing to read."""
    changing = store.changing(HEAD_MASK)
    told: dict[int, str] = {}
    for event in made:
        if event.seq not in changing or event.version in removed:
            continue
        version = versions[event.version]
        if _mask(store, version) == _mask(store, versions.get(version.parent)):
            continue
        pruning = described(store, version).pruning
        told[event.seq] = "pruned heads put back"
        if pruning:
            heads = counted(len(pruning.mask.heads), "head")
            told[event.seq] = f"{heads} pruned to prefer {pruning.prefer}"
    return told


def _mask(store: Store, version: Version | None) -> Blob | None:
    return store.blobs(version).get(HEAD_MASK) if version else None


@dataclass(frozen=True, slots=True)
class Author:
    """What one author did: versions made, by what they did to facts, checks, and when."""

    name: str
    versions: int
    changes: Mapping[str, int]
    checks: int
    first: str
    last: str


def authors_of(events: Sequence[Event]) -> list[Author]:
    """Everybody who is named in the history, who made most versions first."""
    by_name: dict[str, list[Event]] = {}
    for event in events:
        by_name.setdefault(event.who, []).append(event)
    authors = [_author(name, done) for name, done in by_name.items()]
    return sorted(authors, key=lambda author: (-author.versions, author.name))


def _author(name: str, done: Sequence[Event]) -> Author:
    made = [event for event in done if event.made]
    return Author(
        name,
        len(made),
        {
            kind: sum(event.changes[kind] for event in made)
            for kind in ("added", "superseded", "removed")
        },
        sum(event.operation == "check" for event in done),
        done[0].at,
        done[-1].at,
    )
