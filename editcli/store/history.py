"""The audit trail: one JSON line for each change of a store, chained by SHA-256.

Each line carries the hash of the line before it, and `refs/HEAD` carries the hash of the last one
and so vouches for all of them. So no byte can change, and no line can vanish, unnoticed by `parse`.

A change is committed once its line stands in the file with its newline. Bytes after the last
newline that HEAD does not vouch for were left by a killed process, and count for nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import Any

from editcli.store import atomic
from editcli.store.layout import Layout
from editcli.store.records import TAG, VERSION_ID, json_bytes
from editors import EditorError

GENESIS = "0" * 64
"""What the first line has in place of the hash of the line before."""

DAMAGED = "`editcli verify` lists the damage"
"""The hint of every error about damage."""

_HEAD = re.compile(rb"(v[0-9]{4,18})\nhistory ([1-9][0-9]{0,17}) [0-9a-f]{64}\n")
_CHANGES = ("added", "removed", "superseded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the history.

    `seq` counts from 1, `at` is UTC in ISO 8601, `who` is the author. `version` is the version that
    the operation made or points at, `head` the current version afterwards. `manifest` is the
    SHA-256 of the manifest that the operation published (empty when it published none) and `tag`
    the name it gave (or empty). `previous` is the hash of the line before. An event has its `seq`
    and `previous` from the chain that it is appended to.
    """

    seq: int = 0
    at: str
    who: str
    operation: str
    version: str
    head: str
    message: str
    added: Sequence[str] = ()
    removed: Sequence[str] = ()
    superseded: Sequence[str] = ()
    manifest: str = ""
    tag: str = ""
    previous: str = GENESIS

    @property
    def changed(self) -> tuple[str, ...]:
        """The ids of all facts that were added, removed or superseded."""
        return (*self.added, *self.removed, *self.superseded)

    def to_dict(self) -> dict[str, Any]:
        """The plain form, with the fact ids under `facts`; keys are stable."""
        record: dict[str, Any] = {}
        for key, value in asdict(self).items():
            if key in _CHANGES:
                record.setdefault("facts", {})[key] = list(value)
            else:
                record[key] = value
        return record

    def to_line(self) -> bytes:
        """The line without its newline. Raises EditorError for text that is not Unicode."""
        return json_bytes(self.to_dict())

    @classmethod
    def from_line(cls, line: bytes) -> Event:
        """Read a line without its newline. Raises ValueError, KeyError or TypeError.

        Ids of versions and tags become names of files, so they are checked.
        """
        record = json.loads(line)
        facts = record.pop("facts")
        event = cls(**{**record, **{key: tuple(facts[key]) for key in _CHANGES}})
        if not VERSION_ID.fullmatch(event.version) or not VERSION_ID.fullmatch(event.head):
            raise ValueError("not the id of a version")
        if event.tag and not TAG.fullmatch(event.tag):
            raise ValueError("not a tag")
        return event


@dataclass(frozen=True, slots=True)
class Chain:
    """A history as read: its sound lines up to the first damage, and what is wrong with it.

    `tip` is the hash that the next line must carry. `size` is the length in bytes of all lines that
    end with a newline, `torn` the number of bytes after them. HEAD vouches for the first `vouched`
    lines (0 where it is absent or damaged); more lines are sound, since a process may be killed
    before it writes HEAD. A problem is "file: what is wrong with it".
    """

    events: tuple[Event, ...]
    tip: str
    size: int
    torn: int = 0
    vouched: int = 0
    problems: tuple[str, ...] = ()

    def plus(self, event: Event) -> tuple[Chain, bytes]:
        """The chain with `event` at its end, and the line that is appended for it."""
        event = replace(event, seq=len(self.events) + 1, previous=self.tip)
        line = event.to_line()
        size = self.size + len(line) + 1
        return Chain((*self.events, event), line_digest(line), size), line + b"\n"

    def refs(self, since: int) -> dict[str, bytes]:
        """The files in `refs` that the events after the first `since` change: tags, then HEAD."""
        moved = tags(self.events[since:])
        files = {tag: f"{version}\n".encode() for tag, version in moved.items()}
        return {**files, "HEAD": _head(self.events[-1], self.tip)}


def _head(event: Event, digest: str) -> bytes:
    """What HEAD holds when the last event is ``event``, whose line has the hash ``digest``."""
    return f"{event.head}\nhistory {event.seq} {digest}\n".encode()


def parse(data: bytes, head: bytes | None) -> Chain:
    """Read the bytes of a history and of HEAD (None where it is absent), and check both.

    Damage is reported, never raised.
    """
    *lines, rest = data.split(b"\n")
    events: list[Event] = []
    digests = [GENESIS]
    problems: list[str] = []
    for seq, line in enumerate(lines, start=1):
        try:
            event = Event.from_line(line)
        except (ValueError, KeyError, TypeError, AttributeError):
            problems.append(f"history.jsonl: line {seq} cannot be read")
        else:
            if event.previous != digests[-1]:
                problems.append(
                    f"history.jsonl: line {seq} does not carry the hash of line {seq - 1}"
                )
            elif event.seq != seq:
                problems.append(f"history.jsonl: line {seq} is numbered {event.seq}")
            elif not problems:
                events.append(event)
        digests.append(line_digest(line))
    vouched = 0
    match = _HEAD.fullmatch(head or b"")
    if head is not None and not match:
        problems.append("refs/HEAD: cannot be read")
    elif match and not problems:
        vouched = int(match[2])
        if vouched > len(events):
            problems.append(
                f"history.jsonl: ends after line {len(events)}, "
                f"refs/HEAD vouches for line {vouched}"
            )
        elif head is not None and digests[vouched].encode() not in head:
            problems.append(
                f"history.jsonl: line {vouched} is not the one that refs/HEAD vouches for"
            )
        elif match[1].decode() != (recorded := events[vouched - 1].head):
            problems.append(f"refs/HEAD: names {match[1].decode()}, the history says {recorded}")
    return Chain(
        tuple(events), digests[-1], len(data) - len(rest), len(rest), vouched, tuple(problems)
    )


def read(layout: Layout) -> Chain:
    """The history as HEAD vouches for it. Raises EditorError where it is damaged.

    HEAD is read first, so only the history may be ahead.
    """
    with atomic.explained("reading the history"):
        head = atomic.read(layout.head)
        chain = parse(layout.history.read_bytes(), head)
    if chain.problems:
        raise EditorError(chain.problems[0], DAMAGED)
    return chain


def line_digest(line: bytes) -> str:
    """The hash of a line without its newline."""
    return sha256(line).hexdigest()


def tags(events: Iterable[Event]) -> dict[str, str]:
    """The tags after `events`: name to version id."""
    return {event.tag: event.version for event in events if event.tag}


def manifests(events: Iterable[Event]) -> dict[str, str]:
    """The versions published by `events`, in order: id to SHA-256 of the manifest."""
    return {event.version: event.manifest for event in events if event.manifest}


def select(
    events: Iterable[Event],
    *,
    fact: str | None = None,
    operation: str | None = None,
    who: str | None = None,
) -> tuple[Event, ...]:
    """The events that match every argument given; `fact`: an id added, removed or superseded."""
    return tuple(
        event
        for event in events
        if (fact is None or fact in event.changed)
        and operation in (None, event.operation)
        and who in (None, event.who)
    )
