"""The audit trail: one JSON line for each change of a store, chained by SHA-256.

Each line carries the hash of the line before it, and `refs/HEAD` carries the hash of the last one
(an `Anchor`). So no byte can change, and no line can vanish, unnoticed by `check`.

A change is committed once its line stands in the file with its newline. Bytes after the last
newline that no anchor vouches for were left by a killed process, and count for nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from editcli.store import atomic
from editcli.store.layout import Layout
from editcli.store.records import is_version_id, json_bytes
from editors import EditorError

GENESIS = "0" * 64
"""What the first line has in place of the hash of the line before."""

DAMAGED = "`editcli verify` lists the damage"
"""The hint of every error about damage."""

_ANCHOR = re.compile(rb"(v[0-9]{4,})\nhistory ([1-9][0-9]*) ([0-9a-f]{64})\n")


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the history.

    `seq` counts from 1, `at` is UTC in ISO 8601, `who` is the author. `version` is the version that
    the operation made or points at, `head` the current version afterwards. `manifest` is the
    SHA-256 of the manifest that the operation published (empty when it published none) and `tag`
    the name it gave (or empty). `previous` is the hash of the line before.
    """

    seq: int
    at: str
    who: str
    operation: str
    version: str
    head: str
    message: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    superseded: tuple[str, ...] = ()
    manifest: str = ""
    tag: str = ""
    previous: str = GENESIS

    def to_dict(self) -> dict[str, object]:
        """The plain form, with the fact ids under `facts`; keys are stable."""
        return {
            "seq": self.seq,
            "at": self.at,
            "who": self.who,
            "operation": self.operation,
            "version": self.version,
            "head": self.head,
            "message": self.message,
            "facts": {
                "added": list(self.added),
                "removed": list(self.removed),
                "superseded": list(self.superseded),
            },
            "manifest": self.manifest,
            "tag": self.tag,
            "previous": self.previous,
        }

    def to_line(self) -> bytes:
        """The line without its newline. Raises EditorError for text that is not Unicode."""
        return json_bytes(self.to_dict())

    @classmethod
    def from_line(cls, line: bytes) -> Event:
        """Read a line without its newline. Raises ValueError, KeyError or TypeError."""
        record = json.loads(line)
        facts = record.pop("facts")
        event = cls(
            added=tuple(facts["added"]),
            removed=tuple(facts["removed"]),
            superseded=tuple(facts["superseded"]),
            **record,
        )
        if not (is_version_id(event.version) and is_version_id(event.head)):
            raise ValueError("not a version id")
        return event


@dataclass(frozen=True, slots=True)
class Chain:
    """A history as read: its sound lines up to the first damage, and what is wrong with it.

    `digests` are the hashes of the lines of `events`. `size` is the length in bytes of all lines
    that end with a newline, `torn` the number of bytes after them.
    """

    events: tuple[Event, ...]
    digests: tuple[str, ...]
    size: int
    torn: int
    problems: tuple[str, ...]

    @property
    def tip(self) -> str:
        """The hash that the next line must carry."""
        return self.digests[-1] if self.digests else GENESIS

    def plus(self, event: Event, line: bytes) -> Chain:
        """The chain after `line`, the bytes of `event` without newline, was appended."""
        return Chain(
            (*self.events, event),
            (*self.digests, line_digest(line)),
            self.size + len(line) + 1,
            0,
            self.problems,
        )


@dataclass(frozen=True, slots=True)
class Anchor:
    """What `refs/HEAD` holds: the current version, and the last line known to be committed."""

    version: str
    seq: int
    digest: str

    def to_bytes(self) -> bytes:
        return f"{self.version}\nhistory {self.seq} {self.digest}\n".encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Anchor:
        """Raises ValueError for anything but what `to_bytes` wrote."""
        match = _ANCHOR.fullmatch(data)
        if match is None:
            raise ValueError("refs/HEAD cannot be read")
        return cls(match[1].decode(), int(match[2]), match[3].decode())


def parse(data: bytes) -> Chain:
    """Read the bytes of a history and check its chain; damage is reported, never raised."""
    *lines, rest = data.split(b"\n")
    events: list[Event] = []
    digests: list[str] = []
    problems: list[str] = []
    previous = GENESIS
    for seq, line in enumerate(lines, start=1):
        problem = ""
        try:
            event = Event.from_line(line)
        except (ValueError, KeyError, TypeError, AttributeError):
            problem = f"line {seq} cannot be read"
        else:
            if event.previous != previous:
                problem = f"line {seq} does not carry the hash of line {seq - 1}"
            elif event.seq != seq:
                problem = f"line {seq} calls itself line {event.seq}"
        previous = line_digest(line)
        if problem:
            problems.append(problem)
        elif not problems:
            events.append(event)
            digests.append(previous)
    return Chain(tuple(events), tuple(digests), len(data) - len(rest), len(rest), tuple(problems))


def read(layout: Layout) -> tuple[Anchor | None, Chain]:
    """HEAD's anchor and the history, in this order: the history may only be ahead.

    Raises EditorError when a file cannot be read; `check` tells whether they are sound.
    """
    with atomic.explained("reading the history"):
        try:
            anchor = Anchor.from_bytes(layout.head.read_bytes())
        except FileNotFoundError:
            anchor = None
        except ValueError as error:
            raise EditorError(str(error), DAMAGED) from error
        return anchor, parse(layout.history.read_bytes())


def check(chain: Chain, anchor: Anchor | None) -> list[str]:
    """Everything that is wrong with a history, given the anchor that vouches for it.

    A history with lines after its anchor is sound: a process was killed between the two writes.
    """
    problems = [f"history.jsonl: {problem}" for problem in chain.problems]
    if anchor is None or problems:
        return problems
    if anchor.seq > len(chain.events):
        return [
            f"history.jsonl: ends after line {len(chain.events)}, refs/HEAD vouches for line "
            f"{anchor.seq}"
        ]
    if chain.digests[anchor.seq - 1] != anchor.digest:
        return [f"history.jsonl: line {anchor.seq} is not the one that refs/HEAD vouches for"]
    if chain.events[anchor.seq - 1].head != anchor.version:
        recorded = chain.events[anchor.seq - 1].head
        return [f"refs/HEAD: names {anchor.version}, the history says {recorded}"]
    return []


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
    version: str | None = None,
    operation: str | None = None,
    who: str | None = None,
) -> tuple[Event, ...]:
    """The events that match every argument given; `fact`: an id added, removed or superseded."""
    return tuple(
        event
        for event in events
        if (fact is None or fact in (*event.added, *event.removed, *event.superseded))
        and (version is None or event.version == version)
        and (operation is None or event.operation == operation)
        and (who is None or event.who == who)
    )
