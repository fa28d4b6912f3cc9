"""Reads the fields of rows whose values may be anything, and builds facts and probes of them.

Public sets write one answer as a text, a list of texts, or a list of the lists of its names. They
leave fields empty, end prompts with a space, and repeat the prompt among its paraphrases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from editcli.files.formats.base import Row, value_at
from editors import InvalidFact
from editors.facts import ProbeKind
from editors.text_matching.names import whole_word_spans

PLACE = "{}"  # where the subject stands in a prompt

Fields = dict[str, Any]
"""A fact or a probe as plain JSON."""


def text(row: Row, path: str) -> str:
    """The text at ``path``, or the first of the texts there.

    Raises:
        InvalidFact: there is none.
    """
    found = optional(row, path)
    if found is None:
        raise InvalidFact(f"{path}: is required, as text", "correct the row")
    return found


def optional(row: Row, path: str) -> str | None:
    """The text at ``path``, or the first of the texts there; None where there is none."""
    return next(_texts(value_at(row, path)), None)


def texts(row: Row, *paths: str) -> list[str]:
    """All texts at the paths, in order, those of lists and of lists in lists too, each once."""
    return [*dict.fromkeys(found for path in paths for found in _texts(value_at(row, path)))]


def objects(row: Row, path: str) -> list[Row]:
    """The objects in the list at ``path``; whatever else is in it is passed over."""
    value = value_at(row, path)
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def filled(prompt: str, subject: str) -> str:
    """``prompt`` with ``subject`` in the place that it leaves for it."""
    return prompt.replace(PLACE, subject)


def named(subject: str | None, prompt: str) -> str | None:
    """``subject`` if ``prompt`` names it, for sets whose subject is sometimes only the topic."""
    return subject if subject and whole_word_spans(subject, prompt) else None


def fact(
    prompt: str,
    target: str | None,
    *,
    subject: str | None = None,
    ground_truth: str | None = None,
    rephrases: Iterable[str] = (),
    locality: Iterable[Fields] = (),
    portability: Iterable[Fields] = (),
    source: str | None = None,
    tags: Iterable[str] = (),
) -> Fields:
    """A fact, without the fields that say nothing. The prompt itself is no rephrase."""
    fields = {
        "prompt": prompt,
        "target": target,
        "subject": subject,
        "ground_truth": ground_truth,
        "rephrases": [other for other in dict.fromkeys(rephrases) if other != prompt],
        "locality": [*locality],
        "portability": [*portability],
        "source": source,
        "tags": [*tags],
    }
    return {key: value for key, value in fields.items() if value}


def kept(prompts: Iterable[str], answer: str | None, kind: ProbeKind) -> list[Fields]:
    """Probes whose answers must not change. ``answer``: what the set says it is, if it does."""
    known = {"answer": answer} if answer else {}
    return [{"prompt": prompt, **known, "kind": kind} for prompt in prompts]


def follows(prompt: str | None, answer: str | None) -> list[Fields]:
    """A probe of what follows from a fact; none where the prompt or the answer is missing."""
    return [{"prompt": prompt, "answer": answer}] if prompt and answer else []


def case(name: str, row: Row, key: str) -> str | None:
    """Where a fact is from: the ``name`` of the set, and the number of the row in it."""
    number = optional(row, key)
    return None if number is None else f"{name} {number}"


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, list):
        for entry in value:
            yield from _texts(entry)
    elif isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
        yield str(value).strip()
