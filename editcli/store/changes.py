"""What a new version changes, and how that is recorded."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from editcli.store.records import Version
from editcli.store.tables import contents
from editcli.store.tables.contents import Blob
from editcli.store.tables.recorder import Recorder
from editors import EditorError, Fact
from editors.model.saved_payload import Groups


@dataclass(frozen=True, slots=True)
class NewBlob:
    """The bytes of a blob, and the ids of the facts that they were made from, group by group."""

    data: bytes
    made_from: Groups = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """How a new version differs from its parent.

    ``facts``: those that are newly in force, in order, each id once. ``again``: the records with
    the texts of facts that are in force again. ``closed``: by id, the facts that are no longer in
    force, each with the id of the fact in its place if there is one; an id that is also among
    ``facts`` means the fact as it was before, except where another fact takes its place at once.
    ``blobs``: by name, those that are new or other, and None for those that are gone.
    """

    facts: Sequence[Fact] = ()
    again: Sequence[int] = ()
    closed: Mapping[str, str | None] = field(default_factory=dict)
    blobs: Mapping[str, NewBlob | Blob | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Purged:
    """What was purged: the numbers of texts of facts, of notes and scores, and of blobs. The
    ``version`` is the one without them."""

    version: Version
    facts: int
    notes: int
    blobs: int


def recorded(
    database: sqlite3.Connection,
    recorder: Recorder,
    changes: Changes,
    digests: Mapping[str, str | None],
) -> dict[str, int]:
    """Record ``changes`` of the version whose line is marked. ``digests``: of their new blobs.
    Returns how many facts were added, removed and superseded.

    Raises EditorError: a fact that is closed is not in force, or one that comes is so already, or
    was purged.
    """
    counts, entered = _facts(database, recorder, changes)
    for name, digest in digests.items():
        blob = changes.blobs[name]
        if isinstance(blob, Blob):  # of an earlier version
            recorder.blob(name, blob.digest, blob.made_from)
        else:
            groups = blob.made_from if blob else ()
            keys = [[entered.get(fact) or _text(database, fact) for fact in g] for g in groups]
            recorder.blob(name, digest, keys)
    return counts


def _facts(
    database: sqlite3.Connection, recorder: Recorder, changes: Changes
) -> tuple[dict[str, int], dict[str, int]]:
    """The counts, and the records of the facts that were entered."""
    texts = contents.texts(database, changes.again)
    again = {fact.id: key for key, fact in texts.items() if fact}
    if len(again) < len(changes.again):
        raise EditorError("a fact that is to come back was purged, or is to come back twice")
    coming = [*again, *(fact.id for fact in changes.facts)]
    before = {fact: _entry(database, fact) for fact in sorted({*coming, *changes.closed})}
    for fact, times in Counter(coming).items():
        if times > 1 or (before[fact] and fact not in changes.closed):
            raise EditorError(f"fact {fact} is in force already")
    returned = {fact: recorder.again(text) for fact, text in again.items()}
    entered = {fact.id: recorder.fact(fact) for fact in changes.facts}
    counts = {"added": len(coming), "removed": 0, "superseded": 0}
    for fact, by in changes.closed.items():
        old, new = before[fact], entered.get(fact)
        at_once = new if by != fact and not (by is None and old) else None
        if not (old or at_once):
            raise EditorError(f"fact {fact} is not in force")
        other = by and (entered.get(by) or returned.get(by) or _standing(database, by))
        for entry in filter(None, (old, at_once)):
            recorder.close(entry, other or None)
        counts["added"] -= at_once is not None
        counts["superseded" if by else "removed"] += old is not None
    return counts, entered


def _entry(database: sqlite3.Connection, fact: str) -> int | None:
    """The record that brought a fact (an id) in force."""
    found = contents.entries_of(database, fact)
    return found[0].key if found else None


def _standing(database: sqlite3.Connection, fact: str) -> int:
    """The record that brought a fact in force, or one with its text if it is so no longer."""
    return _entry(database, fact) or _text(database, fact)


def _text(database: sqlite3.Connection, fact: str) -> int:
    """The record with the text of a fact that was in force at some time before."""
    key = contents.newest_text(database, fact)
    if key is None:
        raise EditorError(f"fact {fact} was never in force")
    return key
