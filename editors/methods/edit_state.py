"""The edits of a base as data: facts, shards and router, to and from named blobs of bytes.

JSON and safetensors only; the safetensors header is exactly ``{"format": "pt"}``, so that equal
tensors are equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from editors.errors import EditorError, StateMismatch
from editors.facts import Closed, Fact
from editors.heads.head_mask import Head, Resolution
from editors.methods.wise.shards import Shard
from editors.scope.keys import Seen, packed, unpacked

SCHEMA = 1
HEAD_MASK = "head_mask.json"
HEAD_FILL = "head_fill.safetensors"
Scalar = str | int | float | bool
Group = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A shard and how it came about: each group of fact ids was trained together, in turn.

    The shard is a function of the base, the settings, its number, these groups and the facts that
    it held each time.
    """

    groups: tuple[Group, ...]
    shard: Shard

    @property
    def facts(self) -> tuple[str, ...]:
        """The ids in the shard, in the order in which they came."""
        return tuple(dict.fromkeys(fact for group in self.groups for fact in group))


@dataclass(frozen=True, slots=True)
class EditState:
    """All edits of one base.

    ``facts``: every fact ever applied, by id, in order. ``closed``: those that no longer answer.
    ``router``: what the router knows of the base, as tensors; ``seen``: by id, what it saw of each
    fact that it was fitted to, in the order of ``facts``. ``resolution``: the heads that are
    pruned, if any are.
    """

    method: str
    settings: Mapping[str, Scalar]
    layer: int
    projection: str
    fingerprint: str
    facts: Mapping[str, Fact] = field(default_factory=dict)
    closed: Mapping[str, Closed] = field(default_factory=dict)
    shards: tuple[ShardRecord, ...] = ()
    router: Mapping[str, torch.Tensor] = field(default_factory=dict)
    seen: Mapping[str, Seen] = field(default_factory=dict)
    resolution: Resolution | None = None

    @property
    def edits(self) -> str:
        """An id of the edits in force: 12 hexadecimal digits, equal for equal sets of facts."""
        text = "\n".join(sorted(fact.id for fact in self.in_force()))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def stale(self) -> bool:
        """Heads are pruned that were ranked with other edits in force."""
        return self.resolution is not None and self.resolution.edits != self.edits

    def in_force(self) -> list[Fact]:
        """The facts that answer, in order."""
        return [fact for key, fact in self.facts.items() if key not in self.closed]

    def shard_of(self) -> dict[str, int]:
        """The number of the shard that holds each fact."""
        return {fact: n for n, record in enumerate(self.shards) for fact in record.facts}

    def closing(self, facts: Mapping[str, Closed]) -> EditState:
        """The same edits with these facts closed."""
        unknown = [fact for fact in facts if fact not in self.facts]
        if unknown:
            raise EditorError(f"no fact has the id {unknown[0]}", "`editcli log`")
        return replace(self, closed={**self.closed, **facts})

    def to_blobs(self) -> dict[str, bytes]:
        """Named blobs: ``facts.jsonl``, ``edits.json``, ``head_mask.json`` and safetensors."""
        lines = [
            json.dumps({"id": key, **fact.to_dict()}, ensure_ascii=False, sort_keys=True)
            for key, fact in self.facts.items()
        ]
        edits = {
            "schema": SCHEMA,
            "method": self.method,
            "settings": dict(self.settings),
            "layer": self.layer,
            "projection": self.projection,
            "fingerprint": self.fingerprint,
            "shards": [{"groups": [list(g) for g in record.groups]} for record in self.shards],
            "closed": {key: {"why": c.why, "by": c.by} for key, c in self.closed.items()},
        }
        blobs = {
            "facts.jsonl": "".join(line + "\n" for line in lines).encode(),
            "edits.json": (json.dumps(edits, indent=1) + "\n").encode(),
            "router.safetensors": to_bytes(self.router),
        }
        if self.resolution is not None:
            told = {"schema": SCHEMA, **self.resolution.to_dict()}
            blobs[HEAD_MASK] = (json.dumps(told, indent=1) + "\n").encode()
            if fill := self.resolution.mask.fill:
                blobs[HEAD_FILL] = to_bytes({f"{h.layer}.{h.head}": t for h, t in fill.items()})
        shard_of = self.shard_of()
        ids_of: dict[int, list[str]] = defaultdict(list)
        for key in self.seen:
            ids_of[shard_of[key]].append(key)
        for number, record in enumerate(self.shards):
            blobs[f"shard-{number:04d}.safetensors"] = to_bytes(record.shard.packed())
            # Beside its shard, so that a version which touches one shard stores keys of that alone.
            if ids := ids_of[number]:
                place_of = {key: place for place, key in enumerate(record.facts)}
                places = {"facts": torch.tensor([place_of[key] for key in ids])}
                keys = packed([self.seen[key] for key in ids])
                blobs[f"keys-{number:04d}.safetensors"] = to_bytes(keys | places)
        return blobs

    @staticmethod
    def from_blobs(blobs: Mapping[str, bytes]) -> EditState:
        """The edits that :meth:`to_blobs` wrote.

        Raises:
            StateMismatch: a blob is missing or not what it should be.
        """
        try:
            edits = json.loads(blobs["edits.json"])
            if edits["schema"] != SCHEMA:
                raise StateMismatch(
                    f"the edits have schema {edits['schema']}, this editcli reads {SCHEMA}"
                )
            facts = {}
            for line in blobs["facts.jsonl"].decode().split("\n"):
                if not line:
                    continue
                fact = Fact.from_dict(json.loads(line))
                facts[fact.id] = fact
            shards: list[ShardRecord] = []
            seen: dict[str, Seen] = {}
            for number, told in enumerate(edits["shards"]):
                groups = tuple(tuple(group) for group in told["groups"])
                ids = tuple(dict.fromkeys(fact for group in groups for fact in group))
                tensors = load_tensors(blobs[f"shard-{number:04d}.safetensors"])
                shards.append(ShardRecord(groups, Shard.unpacked(ids, tensors)))
                if (name := f"keys-{number:04d}.safetensors") in blobs:
                    keys = load_tensors(blobs[name])
                    places = keys.pop("facts").tolist()
                    seen |= {ids[n]: s for n, s in zip(places, unpacked(keys), strict=True)}
            closed = {key: Closed(c["why"], c["by"]) for key, c in edits["closed"].items()}
            return EditState(
                edits["method"],
                edits["settings"],
                edits["layer"],
                edits["projection"],
                edits["fingerprint"],
                facts,
                closed,
                tuple(shards),
                load_tensors(blobs["router.safetensors"]),
                {key: seen[key] for key in facts if key in seen},
                _resolution(blobs),
            )
        except (KeyError, ValueError, TypeError, AttributeError, SafetensorError) as error:
            raise StateMismatch(
                f"the saved edits cannot be read: {error}", "`editcli verify`"
            ) from error


def _resolution(blobs: Mapping[str, bytes]) -> Resolution | None:
    if HEAD_MASK not in blobs:
        return None
    told = json.loads(blobs[HEAD_MASK])
    if told["schema"] != SCHEMA:
        raise StateMismatch(f"{HEAD_MASK} has schema {told['schema']}, this editcli reads {SCHEMA}")
    tensors = load_tensors(blobs[HEAD_FILL]) if HEAD_FILL in blobs else {}
    fill = {Head(*(int(n) for n in name.split("."))): t for name, t in tensors.items()}
    return Resolution.from_dict(told, fill)


def to_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """The tensors as safetensors bytes, the same bytes for the same tensors."""
    plain = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    return bytes(save_tensors(plain, {"format": "pt"}))
