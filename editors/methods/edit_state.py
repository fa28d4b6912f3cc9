"""The edits of a base as data: what all methods have in common, and the payload of one method.

Facts and closures are JSON, and a payload remains as saved until its method loads it. So edits can
be listed, explained and taken back without a model. This module needs no tensor library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from editors.errors import EditorError, InvalidFact, StateMismatch
from editors.facts import Fact, FactClosure
from editors.heads.pruning import HeadPruning
from editors.model.saved_payload import Groups, SavedPayload

SCHEMA = 3
FACTS = "facts.jsonl"
EDITS = "edits.json"
HEAD_MASK = "head_mask.json"
HEAD_FILL = "head_fill.safetensors"
PLAIN = ("method", "settings", "layer", "modules", "fingerprint")  # fields kept as JSON values
COMMON = (FACTS, EDITS, HEAD_MASK)  # the blobs that can be read without the method
SHOWN = 5  # candidates named in an error if an id is not unique

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class EditState:
    """All edits of one base.

    ``method``: its name; ``layer``: the edited block; ``modules``: the paths of the edited
    projections; ``fingerprint``: of the base. ``payload``: the data of the method, a
    :class:`SavedPayload` until the method loads it. ``facts``: all facts that were ever applied, by
    id, in the order of editing. ``closed``: by id, the closures of the facts that are no longer in
    force. ``pruning``: the pruned heads, None if there are none.
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
        """An id of the set of facts in force: 12 hexadecimal digits, equal for equal sets."""
        text = "\n".join(sorted(fact.id for fact in self.in_force()))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def stale(self) -> bool:
        """Whether pruned heads were ranked with other edits in force."""
        return self.pruning is not None and self.pruning.edits != self.edits

    @property
    def prefers_context(self) -> bool:
        """Whether heads are pruned so that a passage wins over memory and edits."""
        return self.pruning is not None and self.pruning.prefer == "context"

    def in_force(self) -> list[Fact]:
        """The facts in force, in the order of editing."""
        return [fact for key, fact in self.facts.items() if key not in self.closed]

    def entering(self, group: Sequence[Fact]) -> tuple[EditState, list[Fact], dict[str, str]]:
        """The edits with the facts of ``group`` added, and older facts with the same prompts
        closed. Also returns those of ``group`` that are in force then, each once, and the closed
        ids, each with the id that replaced it."""
        facts, closed = dict(self.facts), dict(self.closed)
        answering = {fact.prompt: fact.id for fact in self.in_force()}
        replaced: dict[str, str] = {}
        for fact in group:
            old_id = answering.get(fact.prompt, fact.id)
            if old_id != fact.id:
                closed[old_id] = FactClosure("superseded", fact.id)
                replaced[old_id] = fact.id
            answering[fact.prompt] = fact.id
            facts.pop(fact.id, None)  # a fact that is applied again becomes the newest
            closed.pop(fact.id, None)
            facts[fact.id] = fact
        ids = dict.fromkeys(fact.id for fact in group if fact.id not in closed)
        return replace(self, facts=facts, closed=closed), [facts[fact] for fact in ids], replaced

    def closing(self, closures: Mapping[str, FactClosure]) -> EditState:
        """The edits with these facts closed. Each key is an id or a unique prefix of one.

        Raises:
            EditorError: a key matches no fact, or several.
        """
        full = {full_id(fact, self.facts): closure for fact, closure in closures.items()}
        return replace(self, closed={**self.closed, **full})

    def telling(self, facts: Iterable[Fact]) -> EditState:
        """The edits with other texts of facts in force, which are known by their ids. Those that
        are not in force are passed over."""
        texts = {fact.id: fact for fact in facts if fact.id not in self.closed}
        return replace(self, facts={key: texts.get(key, fact) for key, fact in self.facts.items()})

    def dropping(self, facts: Collection[str]) -> EditState:
        """The edits as if ``facts`` (ids) had never been among them; the payload stays."""
        return replace(
            self,
            facts={key: fact for key, fact in self.facts.items() if key not in facts},
            closed={key: closure for key, closure in self.closed.items() if key not in facts},
        )

    def find(self, prefix: str) -> Fact:
        """The fact whose id is ``prefix``, or the only fact whose id starts with it.

        Raises:
            EditorError: there is no such fact, or there are several, which are named.
        """
        return self.facts[full_id(prefix, self.facts)]

    # --- as blobs -------------------------------------------------------------------------------

    def to_blobs(self) -> dict[str, bytes]:
        """The edits, whose payload is a :class:`SavedPayload`, as named blobs: facts, closures,
        pruned heads, and the blobs of the payload."""
        payload: SavedPayload = self.payload
        lines = [
            json.dumps({"id": key, **fact.to_dict()}, ensure_ascii=False, sort_keys=True)
            for key, fact in self.facts.items()
        ]
        edits = {
            **self.frame(),
            "closed": {key: asdict(closure) for key, closure in self.closed.items()},
            "made_from": payload.made_from,
        }
        return {
            FACTS: "".join(f"{line}\n" for line in lines).encode(),
            EDITS: f"{json.dumps(edits, indent=1)}\n".encode(),
            **payload.blobs,
            **self.pruning_blobs(),
        }

    def frame(self) -> dict[str, Any]:
        """All that does not change from edit to edit, as JSON: method, settings, edited modules,
        base, and the summary of the payload, a :class:`SavedPayload`."""
        plain = {name: getattr(self, name) for name in PLAIN}
        return {"schema": SCHEMA, **plain, "payload": self.payload.summary}

    def pruning_blobs(self) -> dict[str, bytes]:
        """The pruned heads as a named blob; none if no head is pruned."""
        if self.pruning is None:
            return {}
        record = {"schema": SCHEMA, **self.pruning.to_dict()}
        return {HEAD_MASK: f"{json.dumps(record, indent=1)}\n".encode()}

    @staticmethod
    def from_blobs(blobs: Mapping[str, bytes]) -> EditState:
        """The edits that :meth:`to_blobs` wrote, with a :class:`SavedPayload`.

        Raises:
            StateMismatch: a blob is missing or damaged.
        """
        try:
            edits = json.loads(blobs[EDITS])
            lines = blobs[FACTS].split(b"\n")  # splitlines also splits inside texts
            facts: dict[str, Fact] = {}
            for fact in (Fact.from_dict(json.loads(line)) for line in lines if line):
                facts.pop(fact.id, None)  # of a fact that occurs twice, the last line counts
                facts[fact.id] = fact
            closed = {key: FactClosure(**closure) for key, closure in edits["closed"].items()}
            if unknown := sorted(set(closed) - set(facts)):
                raise ValueError(f"{EDITS} closes a fact {unknown[0]} that {FACTS} lacks")
            made_from = {
                name: tuple(map(tuple, groups)) for name, groups in edits["made_from"].items()
            }
        except (LookupError, ValueError, TypeError, AttributeError, InvalidFact) as error:
            raise StateMismatch(f"the saved edits cannot be read: {error}") from error
        return EditState.from_frame(edits, blobs, made_from, facts, closed)

    @staticmethod
    def from_frame(
        frame: Mapping[str, Any],
        blobs: Mapping[str, bytes],
        made_from: Mapping[str, Groups],
        facts: Mapping[str, Fact],
        closed: Mapping[str, FactClosure],
    ) -> EditState:
        """The edits with this :meth:`frame`, and with a :class:`SavedPayload`. ``blobs`` may hold
        those of all edits, not only those of the payload.

        Raises:
            StateMismatch: the frame or the pruned heads cannot be read, or a blob was made from a
                fact that is not among ``facts``.
        """
        try:
            _require_schema(frame, EDITS)
            pruning = None
            if HEAD_MASK in blobs:
                record = json.loads(blobs[HEAD_MASK])
                _require_schema(record, HEAD_MASK)
                pruning = HeadPruning.from_dict(record)
            own = {name: data for name, data in blobs.items() if name not in COMMON}
            payload = SavedPayload(frame["payload"], own, made_from)
            plain = {name: frame[name] for name in PLAIN} | {"modules": tuple(frame["modules"])}
            if unknown := sorted(payload.facts() - set(facts)):
                raise ValueError(f"a blob was made from fact {unknown[0]}, which is missing")
            return EditState(**plain, payload=payload, facts=facts, closed=closed, pruning=pruning)
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            raise StateMismatch(f"the saved edits cannot be read: {error}") from error


def _require_schema(record: Mapping[str, Any], name: str) -> None:
    """Raise StateMismatch if ``record``, from the blob ``name``, has another schema."""
    if record["schema"] != SCHEMA:
        raise StateMismatch(
            f"{name} has schema {record['schema']!r}, this editcli reads schema {SCHEMA}",
            "`pip install --upgrade editcli`",
        )


def full_id(prefix: str, ids: Iterable[str]) -> str:
    """The id in ``ids`` that is ``prefix``, or the only one that starts with it.

    Raises:
        EditorError: there is no such id, or there are several, which are named.
    """
    matches = sorted({candidate for candidate in ids if prefix and candidate.startswith(prefix)})
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
