"""Facts: what a model should say after an edit, and what the edit must not change.

A fact is one JSON object. ``problems`` lists everything that is wrong with such an object, so that
a user can correct a line in one go. ``Fact.from_dict`` refuses an object with any problem.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, ValidationInfo, field_validator

from editors import schema
from editors.errors import InvalidFact
from editors.schema import String, Text, Texts, record, without_nulls

ProbeKind = Literal["near", "far"]

_USER_PREFIX = "x_"  # keys that begin so are the user's
_HINT = "mend what is named"


def _prompt(value: str) -> str:
    # A prompt may end with a line break, as chat templates do. A space joins prompt and target, so
    # any other white space at the end of the prompt would be doubled.
    if value[-1] != "\n" and value[-1].isspace():
        raise ValueError("must not end with a space")
    return value


def _target(value: str) -> str:
    if value[0].isspace():
        raise ValueError("must not start with a space")
    return value


def _id(value: str) -> str:
    plain = value.isascii() and all(c.isalnum() or c in "._:-" for c in value)
    if value and not (plain and len(value) <= 64 and (value[0].isalnum() or value[0] == "_")):
        raise ValueError(f"{value!r} must be 1 to 64 of the characters A-Z a-z 0-9 . _ : -")
    return value


PromptText = Annotated[Text, AfterValidator(_prompt)]


@record(InvalidFact, _HINT)
class Probe:
    """A prompt that measures a side effect of an edit.

    ``kind`` says how close the probe is to the edit: "near" (same subject or same relation) or
    "far". Without ``answer``, the answer of the unedited base is the reference. Raises InvalidFact,
    listing every problem.
    """

    prompt: PromptText
    answer: Text | None = None
    kind: ProbeKind = "far"

    def to_dict(self) -> dict[str, object]:
        """The probe as plain JSON: only keys that differ from their default."""
        values = {"prompt": self.prompt, "answer": self.answer, "kind": self.kind}
        absent = {"answer": None, "kind": "far"}
        return {k: v for k, v in values.items() if k not in absent or v != absent[k]}


def _portability_probe(probe: Probe) -> Probe:
    if probe.answer is None:
        raise ValueError(".answer: is required")
    if probe.kind != "far":
        raise ValueError("unknown key 'kind'")
    return probe


@record(InvalidFact, _HINT)
class Fact:
    """One fact: an edited model should continue ``prompt`` with ``target``.

    ``rephrases`` are held out (measured, never trained on); ``variants`` may be trained on. The
    answers to ``locality`` probes must not change. ``portability`` probes follow from the fact by
    one more step of reasoning and are only measured. ``ground_truth`` is the answer before the
    edit. ``id`` defaults to :meth:`canonical_id`. ``extra`` keeps the user's ``x_`` keys, each
    value as JSON text, so that a fact is hashable. Raises InvalidFact, listing every problem.
    """

    prompt: PromptText
    target: Annotated[Text, AfterValidator(_target)]
    subject: Text | None = None
    ground_truth: Text | None = None
    rephrases: tuple[PromptText, ...] = ()
    variants: tuple[PromptText, ...] = ()
    locality: tuple[Probe, ...] = ()
    portability: tuple[Annotated[Probe, AfterValidator(_portability_probe)], ...] = ()
    source: Text | None = None
    author: Text | None = None
    note: Text | None = None
    tags: Texts = ()
    id: Annotated[String, AfterValidator(_id)] = ""
    extra: tuple[tuple[str, str], ...] = ()

    @field_validator("subject")
    @classmethod
    def _in_prompt(cls, subject: str | None, info: ValidationInfo) -> str | None:
        prompt = info.data.get("prompt")
        if subject is not None and prompt is not None and subject not in prompt:
            raise ValueError(f"{subject!r} does not occur in the prompt")
        return subject

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", self.canonical_id())

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Fact:
        """The fact that a parsed JSON object describes.

        Raises:
            InvalidFact: the object breaks the schema; every problem is listed.
        """
        if user_key_problems := _user_key_problems(data):
            raise InvalidFact(
                "; ".join([*schema.problems(cls, _schema_keys(data)), *user_key_problems]), _HINT
            )
        extra = tuple(
            (key, json.dumps(data[key], ensure_ascii=False))
            for key in sorted(data)
            if key.startswith(_USER_PREFIX)
        )
        return cls(**cast("dict[str, Any]", without_nulls(_schema_keys(data))), extra=extra)

    def to_dict(self) -> dict[str, object]:
        """The fact as plain JSON, in schema order: only keys that differ from their default."""
        values: dict[str, object] = {
            "prompt": self.prompt,
            "target": self.target,
            "subject": self.subject,
            "ground_truth": self.ground_truth,
            "rephrases": list(self.rephrases),
            "variants": list(self.variants),
            "locality": [probe.to_dict() for probe in self.locality],
            "portability": [probe.to_dict() for probe in self.portability],
            "source": self.source,
            "author": self.author,
            "note": self.note,
            "tags": list(self.tags),
            "id": None if self.id == self.canonical_id() else self.id,
        }
        extra = {key: json.loads(text) for key, text in self.extra}
        return {key: value for key, value in values.items() if value not in (None, [])} | extra

    def canonical_id(self) -> str:
        """The first 12 hex digits of the SHA-256 of [prompt, target, subject] as compact JSON."""
        identity = [self.prompt, self.target, self.subject]
        text = json.dumps(identity, ensure_ascii=False, separators=(",", ":"))
        return sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class FactClosure:
    """Why a fact is no longer in force, and the id of the fact that replaced it, if any."""

    reason: Literal["superseded", "undone"]
    replaced_by: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        return {"reason": self.reason, "replaced_by": self.replaced_by}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> FactClosure:
        """The closure that :meth:`to_dict` wrote; raises KeyError or ValueError for other data."""
        if data["reason"] not in ("superseded", "undone"):
            raise ValueError(f"a fact is closed as {data['reason']!r}")
        return FactClosure(data["reason"], data["replaced_by"])


def problems(data: object) -> list[str]:
    """Everything that keeps ``data`` (a parsed JSON value) from being a fact, in schema order."""
    if not isinstance(data, Mapping):
        return schema.problems(Fact, data)
    return [*schema.problems(Fact, _schema_keys(data)), *_user_key_problems(data)]


def _schema_keys(data: Mapping[str, object]) -> dict[str, object]:
    """``data`` without the user's keys and without ``extra``: the keys that the schema checks."""
    return {k: v for k, v in data.items() if not k.startswith(_USER_PREFIX) and k != "extra"}


def _user_key_problems(data: Mapping[str, object]) -> list[str]:
    """What is wrong with the user's keys. ``extra`` is a field of a fact, but no key of a file."""
    problems_found = [schema.unknown_key("extra", ())] if "extra" in data else []
    for key, value in data.items():
        if key.startswith(_USER_PREFIX):
            try:
                schema.plain_json(value)
            except ValueError as problem:
                problems_found.append(f"{key}: {problem}")
    return problems_found
