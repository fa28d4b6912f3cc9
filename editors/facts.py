"""Facts: what a model should say after an edit, and what the edit must not change.

A fact is one JSON object. ``Fact.from_dict`` refuses an object that breaks the schema, and lists
everything that is wrong with it, so that a user can correct a line in one go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Any, Literal, get_args

from editors import schema
from editors.errors import InvalidFact
from editors.schema import (
    AfterValidator,
    String,
    Text,
    Texts,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    record,
    without_nulls,
)
from editors.text_matching.encodable import is_unicode
from editors.text_matching.names import folded_name, nearest_words, whole_word_spans

NearKind = Literal["relation", "subject", "mention", "name", "time", "amount"]
ProbeKind = Literal[NearKind, "near", "far"]

NEAR_KINDS: tuple[NearKind, ...] = get_args(NearKind)
"""The ways in which a probe can be close to an edit."""

_USER_PREFIX = "x_"  # keys that begin so are the user's
_HINT = "correct what is named"


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
    if value and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._:-]{0,63}", value):
        raise ValueError(f"{value!r} must be 1 to 64 of the characters A-Z a-z 0-9 . _ : -")
    return value


PromptText = Annotated[Text, AfterValidator(_prompt)]


@record(InvalidFact, _HINT)
class Probe:
    """A prompt that measures a side effect of an edit.

    ``kind`` says how the probe is close to the edit. "relation": the same question about another
    subject; "subject": another question about the subject; "mention": the subject is only named;
    "name": a longer name that holds the subject's; "time": the same question of another time;
    "amount": the same question of another tier, region, unit or currency; "near": close in a way
    that is not told; "far": not at all. Without ``answer``, the answer of the unedited base is the
    reference. Raises InvalidFact, listing every problem.
    """

    prompt: PromptText
    answer: Text | None = None
    kind: ProbeKind = "far"

    @property
    def near(self) -> bool:
        """Whether the probe is close to the edit, of whichever kind."""
        return self.kind != "far"


def _portability_probe(probe: Probe) -> Probe:
    if probe.answer is None:
        raise ValueError(".answer: is required")
    if probe.near:
        raise ValueError("unknown key 'kind'")
    return probe


@record(InvalidFact, _HINT)
class Fact:
    """One fact: an edited model should continue ``prompt`` with ``target``.

    ``subject`` is what the fact is about, as whole words of the prompt; ``aliases`` are other names
    of it, none of them twice (:mod:`editors.text_matching.names` compares names). ``rephrases`` are
    held out (measured, never trained on); ``variants`` may be trained on. The answers to
    ``locality`` probes must not change. ``portability`` probes follow from the fact by one more
    step of reasoning and are only measured. ``ground_truth`` is the answer before the edit. ``id``
    defaults to :meth:`canonical_id`. ``extra`` keeps the user's ``x_`` keys, each value as JSON
    text, so that a fact is hashable. Raises InvalidFact, listing every problem.
    """

    prompt: PromptText
    target: Annotated[Text, AfterValidator(_target)]
    subject: Text | None = None
    aliases: Texts = ()
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
        if subject is not None and prompt is not None and not whole_word_spans(subject, prompt):
            nearest = nearest_words(subject, prompt)
            like = f" (the nearest is {nearest!r})" if nearest else ""
            raise ValueError(f"{subject!r} does not occur in the prompt as a whole word{like}")
        return subject

    @field_validator("aliases")
    @classmethod
    def _of_subject(cls, aliases: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        subject = info.data.get("subject", "")  # missing where it is refused itself
        if aliases and subject is None:
            raise ValueError("need a subject, which they are other names of")
        known = {folded_name(subject)} if subject else set()
        for alias in aliases:
            name = folded_name(alias)
            if not name:
                raise ValueError(f"{alias!r} holds no character that can be seen")
            if name in known:
                raise ValueError(f"{alias!r} is the subject or an alias before it")
            known.add(name)
        return aliases

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", self.canonical_id())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Fact:
        """The fact that a parsed JSON object describes.

        Raises:
            InvalidFact: the object breaks the schema; every problem is listed.
        """
        keys = {k: v for k, v in data.items() if not k.startswith(_USER_PREFIX)}
        extra, problems = {}, []
        if keys.pop("extra", None) is not None:  # a field of a fact, but no key of a file
            problems.append(schema.unknown_key("extra", ()))
        for key in sorted(data.keys() - keys.keys() - {"extra"}):
            try:
                if not is_unicode(key):
                    raise ValueError("the key must be valid Unicode")
                extra[key] = schema.plain_json(data[key])
            except ValueError as problem:
                problems.append(f"{key}: {problem}")
        if problems:
            raise InvalidFact("; ".join([*schema.problems(cls, keys), *problems]), _HINT)
        return cls(**without_nulls(keys), extra=tuple(extra.items()))

    def to_dict(self) -> dict[str, Any]:
        """The fact as plain JSON, in schema order: only keys that differ from their default."""
        left_out = {"extra", "id"} if self.id == self.canonical_id() else {"extra"}
        values: dict[str, Any] = _FACT.dump_python(
            self, mode="json", exclude_defaults=True, exclude=left_out
        )
        return values | {key: json.loads(text) for key, text in self.extra}

    def completed_by(self, other: Fact) -> Fact:
        """This fact with all that ``other``, with the same prompt and target, tells in addition or
        otherwise. Its author stays."""
        told = {key: value for key, value in other.to_dict().items() if key != "author"}
        return Fact.from_dict({**self.to_dict(), **told})

    def is_trained_as(self, other: Fact) -> bool:
        """Whether only what is told or measured of the two facts differs, and not what is trained
        or routed by."""
        return all(
            getattr(self, key) == getattr(other, key)
            for key in ("id", "prompt", "target", "subject", "aliases", "variants")
        )

    def trained_prompts(self) -> tuple[str, ...]:
        """The prompts that may be trained on: the prompt, the variants, and the prompt with each
        alias for the subject."""
        with_alias = (_renamed(self.prompt, self.subject or "", alias) for alias in self.aliases)
        return (self.prompt, *self.variants, *with_alias)

    def canonical_id(self) -> str:
        """The first 12 hex digits of the SHA-256 of [prompt, target, subject] as compact JSON."""
        identity = [self.prompt, self.target, self.subject]
        text = json.dumps(identity, ensure_ascii=False, separators=(",", ":"))
        return sha256(text.encode()).hexdigest()[:12]


def _renamed(prompt: str, subject: str, alias: str) -> str:
    """``prompt`` with ``alias`` in place of ``subject``, and not with two articles."""
    for start, end in reversed(whole_word_spans(subject, prompt)):
        before, name = prompt[:start], alias
        if name.lower().startswith("the ") and re.search(r"\bthe $", before, re.IGNORECASE):
            name = name[4:]
        if not before and prompt[0].isupper():
            name = name[0].upper() + name[1:]
        prompt = before + name + prompt[end:]
    return prompt


_FACT = TypeAdapter(Fact)


@record(InvalidFact)
class FactClosure:
    """Why a fact is no longer in force, and the id of the fact that replaced it, if any."""

    reason: Literal["superseded", "undone"]
    replaced_by: str | None = None
