"""The edits of a base as data: what every method has, and one payload of the method's own.

Needs no tensor library: facts and their closures are JSON, and a payload stays as it was saved
until its method loads it. So edits can be listed, explained and taken back without a model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from editors.errors import EditorError, InvalidFact, StateMismatch
from editors.facts import Fact, FactClosure
from editors.heads.pruning import HeadPruning

SCHEMA = 2
FACTS = "facts.jsonl"
EDITS = "edits.json"
HEAD_MASK = "head_mask.json"
HEAD_FILL = "head_fill.safetensors"
COMMON = (FACTS, EDITS, HEAD_MASK)  # what can be read without the method
SHOWN = 5  # candidates named where an id is not unique

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class SavedPayload:
    """A payload as it is stored: a summary, plain JSON, and named blobs of bytes."""

    summary: Mapping[str, Any]
    blobs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EditState:
    """All edits of one base.

    ``facts``: every fact ever applied, by id, in the order of editing. ``closed``: those that no
    longer answer. ``pruning``: the heads that are pruned, if any are. ``payload``: what the method
    keeps, a :class:`SavedPayload` until the method loads it.
    """

    method: str
    settings: Mapping[str, Scalar]
    layer: int
    modules: tuple[str, ...]
    fingerprint: str
    payload: Any
    facts: Mapping[str, Fact] = field(default_factory=dict)
    closed: Mapping[str, FactClosure] = field(default_factory=dict)
    pruning: HeadPruning | None = None

    @property
    def edits(self) -> str:
        """An id of the edits in force: 12 hexadecimal digits, equal for equal sets of facts."""
        text = "\n".join(sorted(fact.id for fact in self.in_force()))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def stale(self) -> bool:
        """Heads are pruned that were ranked with other edits in force."""
        return self.pruning is not None and self.pruning.edits != self.edits

    @property
    def prefers_context(self) -> bool:
        """Heads are pruned so that a passage wins over memory and edits."""
        return self.pruning is not None and self.pruning.prefer == "context"

    def in_force(self) -> list[Fact]:
        """The facts that answer, in order."""
        return [fact for key, fact in self.facts.items() if key not in self.closed]

    def closing(self, closures: Mapping[str, FactClosure]) -> EditState:
        """The same edits with these facts closed, each named as in :meth:`find`."""
        whole = {self.find(fact).id: closure for fact, closure in closures.items()}
        return replace(self, closed={**self.closed, **whole})

    def find(self, prefix: str) -> Fact:
        """The fact with that id, or the only one whose id starts so.

        Raises:
            EditorError: there is none, or several, which are named.
        """
        return self.facts[full_id(prefix, self.facts)]

    # --- as blobs -------------------------------------------------------------------------------

    def to_blobs(self, payload: SavedPayload) -> dict[str, bytes]:
        """Named blobs: the facts, what became of them, pruned heads, and those of ``payload``."""
        lines = [
            json.dumps({"id": key, **fact.to_dict()}, ensure_ascii=False, sort_keys=True)
            for key, fact in self.facts.items()
        ]
        edits = {
            "schema": SCHEMA,
            "method": self.method,
            "settings": dict(self.settings),
            "layer": self.layer,
            "modules": list(self.modules),
            "fingerprint": self.fingerprint,
            "closed": {key: closure.to_dict() for key, closure in self.closed.items()},
            "payload": payload.summary,
        }
        blobs = {
            FACTS: "".join(f"{line}\n" for line in lines).encode(),
            EDITS: f"{json.dumps(edits, indent=1)}\n".encode(),
            **payload.blobs,
        }
        if self.pruning is not None:
            record = {"schema": SCHEMA, **self.pruning.to_dict()}
            blobs[HEAD_MASK] = f"{json.dumps(record, indent=1)}\n".encode()
        return blobs

    @staticmethod
    def from_blobs(blobs: Mapping[str, bytes]) -> EditState:
        """The edits that :meth:`to_blobs` wrote, their payload as it was saved.

        Raises:
            StateMismatch: a blob is missing or not what it should be.
        """
        try:
            edits = _json(blobs, EDITS)
            # A fact applied again after an undo is recorded anew: its last place counts.
            facts: dict[str, Fact] = {}
            for line in blobs[FACTS].split(b"\n"):  # splitlines also splits inside texts
                if line:
                    fact = Fact.from_dict(json.loads(line))
                    facts.pop(fact.id, None)
                    facts[fact.id] = fact
            closed = {
                key: FactClosure.from_dict(closure) for key, closure in edits["closed"].items()
            }
            if stray := sorted(set(closed) - set(facts)):
                raise ValueError(f"{EDITS} closes a fact {stray[0]} that {FACTS} lacks")
            rest = {name: data for name, data in blobs.items() if name not in COMMON}
            pruning = HeadPruning.from_dict(_json(blobs, HEAD_MASK)) if HEAD_MASK in blobs else None
            return EditState(
                edits["method"],
                edits["settings"],
                edits["layer"],
                tuple(edits["modules"]),
                edits["fingerprint"],
                SavedPayload(edits["payload"], rest),
                facts,
                closed,
                pruning,
            )
        except (LookupError, ValueError, TypeError, AttributeError, InvalidFact) as error:
            raise StateMismatch(f"the saved edits cannot be read: {error}") from error


def _json(blobs: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """A blob as a JSON object of this schema."""
    record: dict[str, Any] = json.loads(blobs[name])
    if record["schema"] != SCHEMA:
        raise StateMismatch(
            f"{name} has schema {record['schema']!r}, this editcli reads schema {SCHEMA}",
            "`pip install --upgrade editcli`",
        )
    return record


def full_id(prefix: str, ids: Iterable[str]) -> str:
    """The one of ``ids`` that is ``prefix``, or the only one that starts so.

    Raises:
        EditorError: there is none, or several, which are named.
    """
    matches = sorted({known for known in ids if prefix and known.startswith(prefix)})
    if prefix in matches:
        return prefix
    if not matches:
        raise EditorError(
            f"no fact has an id that starts with {prefix!r}", "`editcli show --facts` lists them"
        )
    if len(matches) > 1:
        more = f" and {len(matches) - SHOWN} more" if len(matches) > SHOWN else ""
        raise EditorError(
            f"{len(matches)} facts have an id that starts with {prefix!r}: "
            f"{', '.join(matches[:SHOWN])}{more}",
            "type more of the id",
        )
    return matches[0]
