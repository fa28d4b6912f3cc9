"""Facts: what a model should say from now on, and what must not change beside it.

A fact is one JSON object. `problems` lists everything wrong with such an object at once, so that a
user mends a line in one go; `Fact.from_dict` refuses an object that has any problem.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from typing import Literal, cast

from editors.errors import InvalidFact

ProbeKind = Literal["near", "far"]

_HINT = "mend what is named"
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:-]{0,63}")
_Check = Callable[[object], Iterator[str]]


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt that measures a side effect.

    `kind` says how close the probe is to the edit: "near" (same subject or same relation) or "far".
    Without `answer` the base model's own answer is what counts.
    """

    prompt: str
    answer: str | None = None
    kind: ProbeKind = "far"

    def to_dict(self) -> dict[str, object]:
        """The plain form: keys that differ from their default."""
        out: dict[str, object] = {"prompt": self.prompt}
        if self.answer is not None:
            out["answer"] = self.answer
        if self.kind != "far":
            out["kind"] = self.kind
        return out


@dataclass(frozen=True, slots=True)
class Fact:
    """One belief to write: after `prompt` the model should say `target`.

    `rephrases` are held out (measured, never trained on); `variants` may be trained on.
    `locality` must not change; `portability` lies one hop further and is only measured.
    `id` defaults to `canonical_id()`. `extra` keeps the user's own `x_` keys, each value as JSON
    text so that a fact stays hashable. Raises InvalidFact, listing every problem.
    """

    prompt: str
    target: str
    subject: str | None = None
    ground_truth: str | None = None
    rephrases: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    locality: tuple[Probe, ...] = ()
    portability: tuple[Probe, ...] = ()
    source: str | None = None
    author: str | None = None
    note: str | None = None
    tags: tuple[str, ...] = ()
    id: str = ""
    extra: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        found = problems(self._plain())
        if found:
            raise InvalidFact("; ".join(found), _HINT)
        if not self.id:
            object.__setattr__(self, "id", self.canonical_id())

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Fact:
        """The fact that a parsed JSON object describes; raises InvalidFact listing all problems."""
        found = problems(data)
        if found:
            raise InvalidFact("; ".join(found), _HINT)
        given = {key: value for key, value in data.items() if value is not None}
        return cls(
            prompt=str(given["prompt"]),
            target=str(given["target"]),
            subject=_text(given, "subject"),
            ground_truth=_text(given, "ground_truth"),
            rephrases=_texts(given, "rephrases"),
            variants=_texts(given, "variants"),
            locality=_probes(given, "locality"),
            portability=_probes(given, "portability"),
            source=_text(given, "source"),
            author=_text(given, "author"),
            note=_text(given, "note"),
            tags=_texts(given, "tags"),
            id=_text(given, "id") or "",
            extra=tuple(
                (key, json.dumps(data[key], ensure_ascii=False))
                for key in sorted(data)
                if key.startswith("x_")
            ),
        )

    def to_dict(self) -> dict[str, object]:
        """The plain form, in schema order: keys that differ from their default."""
        out = self._plain()
        if self.id == self.canonical_id():
            del out["id"]
        return out

    def canonical_id(self) -> str:
        """The first 12 hex digits of the SHA-256 of [prompt, target, subject] as compact JSON."""
        identity = [self.prompt, self.target, self.subject]
        text = json.dumps(identity, ensure_ascii=False, separators=(",", ":"))
        return sha256(text.encode()).hexdigest()[:12]

    def _plain(self) -> dict[str, object]:
        """Every key that is set, an explicit or computed `id` included."""
        fields: dict[str, object] = {
            "prompt": self.prompt,
            "target": self.target,
            "subject": self.subject,
            "ground_truth": self.ground_truth,
            "rephrases": list(self.rephrases) or None,
            "variants": list(self.variants) or None,
            "locality": [probe.to_dict() for probe in self.locality] or None,
            "portability": [probe.to_dict() for probe in self.portability] or None,
            "source": self.source,
            "author": self.author,
            "note": self.note,
            "tags": list(self.tags) or None,
            "id": self.id or None,
        }
        out = {key: value for key, value in fields.items() if value is not None}
        return out | {key: json.loads(text) for key, text in self.extra}


@dataclass(frozen=True, slots=True)
class Closed:
    """Why a fact is no longer in force, and the id of the fact that took its place, if any."""

    why: Literal["superseded", "undone"]
    by: str | None = None


def problems(data: object) -> list[str]:
    """Everything that keeps `data` (a parsed JSON value) from being a fact, in schema order."""
    if not isinstance(data, Mapping):
        return [f"must be a JSON object, not {_kind(data)}"]
    found = [f"{key}: is required" for key in ("prompt", "target") if data.get(key) is None]
    for key, check in _CHECKS.items():
        if data.get(key) is not None:
            found += [f"{key}{what}" for what in check(data[key])]
    found += _subject_problems(data)
    for key in data:
        if isinstance(key, str) and key.startswith("x_"):
            found += [f"{key}{what}" for what in _check_json(data[key])]
        elif key not in _CHECKS:
            found.append(_unknown_key(str(key), tuple(_CHECKS)))
    return found


def _subject_problems(data: Mapping[str, object]) -> list[str]:
    subject, prompt = data.get("subject"), data.get("prompt")
    if isinstance(subject, str) and isinstance(prompt, str) and subject and subject not in prompt:
        return [f"subject: {subject!r} does not occur in the prompt"]
    return []


def _unknown_key(key: str, known: tuple[str, ...]) -> str:
    close = get_close_matches(key, known, n=1)
    return f"unknown key {key!r}" + (f" (did you mean {close[0]!r}?)" if close else "")


def _kind(value: object) -> str:
    """What JSON calls `value`, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return "text"
    return "an object" if isinstance(value, Mapping) else "a list"


# Each check yields what follows the key in a message, ": must ..." or "[2]: must ...".


def _check_text(value: object) -> Iterator[str]:
    if not isinstance(value, str):
        yield f": must be text, not {_kind(value)}"
    elif not value.strip():
        yield ": must not be empty"
    elif not _encodes(value):
        yield ": must be valid Unicode (it holds half of a surrogate pair)"


def _check_prompt(value: object) -> Iterator[str]:
    yield from _check_text(value)
    # A line break may end a prompt, as chat templates do; any other white space would be doubled
    # by the space that joins prompt and target.
    if isinstance(value, str) and value.strip() and value[-1] != "\n" and value[-1].isspace():
        yield ": must not end with a space"


def _check_target(value: object) -> Iterator[str]:
    yield from _check_text(value)
    if isinstance(value, str) and value.strip() and value[0].isspace():
        yield ": must not start with a space"


def _check_id(value: object) -> Iterator[str]:
    if not isinstance(value, str):
        yield f": must be text, not {_kind(value)}"
    elif not _ID.fullmatch(value):
        yield f": {value!r} must be 1 to 64 of the characters A-Z a-z 0-9 . _ : -"


def _check_json(value: object) -> Iterator[str]:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        yield ": must be plain JSON"
    else:
        if not _encodes(text):
            yield ": must be valid Unicode (it holds half of a surrogate pair)"


def _each(check: _Check) -> _Check:
    """A check of a list whose items pass `check`."""

    def check_list(value: object) -> Iterator[str]:
        if not isinstance(value, list | tuple):
            yield f": must be a list, not {_kind(value)}"
            return
        for index, item in enumerate(value):
            yield from (f"[{index}]{what}" for what in check(item))

    return check_list


def _check_locality(value: object) -> Iterator[str]:
    yield from _check_probe(value, ("prompt", "answer", "kind"), required=("prompt",))


def _check_portability(value: object) -> Iterator[str]:
    yield from _check_probe(value, ("prompt", "answer"), required=("prompt", "answer"))


def _check_probe(
    value: object, known: tuple[str, ...], *, required: tuple[str, ...]
) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f": must be an object, not {_kind(value)}"
        return
    yield from (f".{key}: is required" for key in required if value.get(key) is None)
    if value.get("prompt") is not None:
        yield from (f".prompt{what}" for what in _check_prompt(value["prompt"]))
    if value.get("answer") is not None:
        yield from (f".answer{what}" for what in _check_text(value["answer"]))
    if "kind" in known and value.get("kind") not in ("near", "far", None):
        yield f".kind: must be 'near' or 'far', not {value['kind']!r}"
    yield from (f": {_unknown_key(str(key), known)}" for key in value if key not in known)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_CHECKS: dict[str, _Check] = {
    "prompt": _check_prompt,
    "target": _check_target,
    "subject": _check_text,
    "ground_truth": _check_text,
    "rephrases": _each(_check_prompt),
    "variants": _each(_check_prompt),
    "locality": _each(_check_locality),
    "portability": _each(_check_portability),
    "source": _check_text,
    "author": _check_text,
    "note": _check_text,
    "tags": _each(_check_text),
    "id": _check_id,
}


# Readers of an object that has no problems.


def _text(data: Mapping[str, object], key: str) -> str | None:
    value = data.get(key)
    return None if value is None else str(value)


def _texts(data: Mapping[str, object], key: str) -> tuple[str, ...]:
    return tuple(cast("list[str]", data.get(key, [])))


def _probes(data: Mapping[str, object], key: str) -> tuple[Probe, ...]:
    items = cast("list[Mapping[str, str | None]]", data.get(key, []))
    return tuple(
        Probe(
            prompt=str(item["prompt"]),
            answer=item.get("answer"),
            kind=cast("ProbeKind", item.get("kind") or "far"),
        )
        for item in items
    )
