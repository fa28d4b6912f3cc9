"""Which facts a version holds, in which shard each lies, and which were closed and why.

Read from two blobs, neither of which needs a tensor library: `facts.jsonl`, every fact applied on
the way to the version, in the order of editing, and `edits.json`, what became of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from editcli.store.history import DAMAGED
from editcli.store.store import Store, Version
from editors import Closed, EditorError, Fact, InvalidFact

FACTS = "facts.jsonl"
EDITS = "edits.json"
EDITS_SCHEMA = 1

SHOWN = 5  # candidates named when a prefix is not unique

Setting = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Ledger:
    """The facts of one version.

    `facts` are all that were ever applied, in the order of editing; `closed` maps the id of one no
    longer in force to the reason. `shards` holds the ids by shard and, inside, by group. The rest
    says where and how the facts were written; it is empty in a version without edits.
    """

    facts: tuple[Fact, ...] = ()
    closed: Mapping[str, Closed] = field(default_factory=dict)
    shards: tuple[tuple[tuple[str, ...], ...], ...] = ()
    method: str = ""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    layer: int | None = None
    projection: str = ""
    fingerprint: str = ""

    @classmethod
    def of(cls, store: Store, version: Version | str = "HEAD") -> Ledger:
        """The ledger of a version; one without the two blobs has no facts.

        Raises EditorError when a blob is missing or damaged, or they do not fit together.
        """
        if isinstance(version, str):
            version = store.version(version)
        present = [name for name in (FACTS, EDITS) if name in version.blobs]
        if not present:
            return cls()
        if len(present) == 1:
            lacking = EDITS if present == [FACTS] else FACTS
            raise EditorError(f"{version.id} has {present[0]} but no {lacking}", DAMAGED)
        try:
            return _assembled(
                _facts(store.read(version, FACTS)), json.loads(store.read(version, EDITS))
            )
        except (ValueError, KeyError, TypeError, AttributeError, InvalidFact) as error:
            raise EditorError(
                f"the facts of {version.id} cannot be read: {error}", DAMAGED
            ) from error

    def in_force(self) -> tuple[Fact, ...]:
        """The facts that are not closed, in the order of editing."""
        return tuple(fact for fact in self.facts if fact.id not in self.closed)

    def shard_of(self, fact_id: str) -> int | None:
        """The number of the shard that a fact was written to, None when there is none such."""
        for number in reversed(range(len(self.shards))):
            if any(fact_id in group for group in self.shards[number]):
                return number
        return None

    def find(self, prefix: str) -> Fact:
        """The fact with that id, or the only one whose id starts so.

        Raises EditorError when there is none, or several, which are named.
        """
        known = {fact.id: fact for fact in self.facts}
        return known[full_id(prefix, known)]


def full_id(prefix: str, ids: Iterable[str]) -> str:
    """The one of `ids` that is `prefix`, or the only one that starts so.

    Raises EditorError when there is none, or several, which are named.
    """
    matches = sorted({known for known in ids if prefix and known.startswith(prefix)})
    if prefix in matches:
        return prefix
    if not matches:
        raise EditorError(
            f"no fact has an id that starts with {prefix!r}", "`editcli show --facts` lists them"
        )
    if len(matches) > 1:
        shown = ", ".join(matches[:SHOWN])
        more = f" and {len(matches) - SHOWN} more" if len(matches) > SHOWN else ""
        raise EditorError(
            f"{len(matches)} facts have an id that starts with {prefix!r}: {shown}{more}",
            "type more of the id",
        )
    return matches[0]


def ancestry(store: Store, version: Version) -> tuple[Version, ...]:
    """`version` and all versions before it, newest first."""
    known = {other.id: other for other in store.versions()}
    line = [version]
    while line[-1].parent:
        line.append(known[line[-1].parent])
    return tuple(line)


def _facts(data: bytes) -> tuple[Fact, ...]:
    # A fact applied again after an undo is recorded anew: its last place is where it stands.
    found: dict[str, Fact] = {}
    for line in data.split(b"\n"):  # splitlines would also split at separators inside a text
        if not line:
            continue
        fact = Fact.from_dict(json.loads(line))
        found.pop(fact.id, None)
        found[fact.id] = fact
    return tuple(found.values())


def _assembled(facts: tuple[Fact, ...], edits: Mapping[str, Any]) -> Ledger:
    """Raises EditorError for another schema, ValueError and its like for what makes no sense."""
    if edits["schema"] != EDITS_SCHEMA:
        raise EditorError(
            f"{EDITS} has schema {edits['schema']!r}, this editcli reads schema {EDITS_SCHEMA}",
            "`pip install --upgrade editcli`",
        )
    closed = {
        fact_id: Closed(entry["why"], entry["by"]) for fact_id, entry in edits["closed"].items()
    }
    if strange := {entry.why for entry in closed.values()} - {"superseded", "undone"}:
        raise ValueError(f"a fact is closed as {sorted(strange)[0]!r}")
    shards = tuple(tuple(tuple(group) for group in shard["groups"]) for shard in edits["shards"])
    known = {fact.id for fact in facts}
    named = {fact_id for shard in shards for group in shard for fact_id in group}
    if stray := sorted((named | set(closed)) - known):
        raise ValueError(f"{EDITS} names a fact {stray[0]} that {FACTS} lacks")
    return Ledger(
        facts=facts,
        closed=closed,
        shards=shards,
        method=edits["method"],
        settings=dict(edits["settings"]),
        layer=edits["layer"],
        projection=edits["projection"],
        fingerprint=edits["fingerprint"],
    )
