"""RippleEdits (arXiv 2307.12976).

A row tells its fact as a statement, and names the subject and the answer by their numbers in
Wikidata alone. The words of both are found by comparing statements.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from editcli.files.formats.base import Format, Row
from editcli.files.formats.fields import (
    Fields,
    fact,
    follows,
    kept,
    named,
    objects,
    optional,
    text,
    texts,
)
from editcli.files.formats.sets.knowedit import KINDS
from editors import InvalidFact
from editors.facts import ProbeKind

LOCALITY: Mapping[str, ProbeKind] = {**KINDS, "Forgetfulness": "near"}
HOPS = ("Logical_Generalization", "Compositionality_I", "Compositionality_II")
ALIASES = "Subject_Aliasing"  # questions that call the subject by another name

# "The father of X is Y.", "The siblings of X are Y.", "X follows Y.", "X is followed by Y."
_VERB = re.compile(r"\b(?:is followed by|is|are|follows)(?= )")
# The words that stand beside the subject in such statements.
_BEFORE = re.compile(
    r"^(?:(?:The(?= [a-z]|$)|the|names?|number|of|which|in|award|children|country)(?:\s+|$))+"
)
_AFTER = re.compile(
    r"(?:\s+(?:is|are|has|won|plays|follow(?:s|ed)|by|in|a|the|associated|with|part|member|of))+$"
)


def _facts(row: Row) -> Iterator[Fields]:
    statement = text(row, "edit.prompt")
    old = optional(row, "edit.original_fact.prompt")
    prompt = _up_to_the_answer(statement, old)
    yield fact(
        prompt,
        _answer(statement, prompt),
        subject=_subject(row, prompt),
        ground_truth=_answer(old, prompt) if old else None,
        locality=[
            probe
            for group, kind in LOCALITY.items()
            for query in _queries(row, group)
            for probe in kept(texts(query, "prompt"), optional(query, "answers[].value"), kind)
        ],
        portability=[
            hop
            for query in _queries(row, *HOPS, ALIASES)
            for hop in follows(optional(query, "prompt"), optional(query, "answers[].value"))
        ],
        tags=texts(row, "example_type", "edit.relation"),
    )


def _up_to_the_answer(statement: str, old: str | None) -> str:
    """The statement up to its last verb. The old statement differs in the answer alone, so the
    verb is before the place from which the two differ.

    Raises:
        InvalidFact: there is no such verb.
    """
    prompts = [statement[: match.end()] for match in _VERB.finditer(statement)]
    shared = [prompt for prompt in prompts if (old or statement).startswith(prompt)]
    if not shared:
        raise InvalidFact(f"edit.prompt: {statement!r} has no verb before its answer")
    return shared[-1]


def _answer(statement: str, prompt: str) -> str:
    return statement.removeprefix(prompt).strip().removesuffix(".")


def _subject(row: Row, prompt: str) -> str | None:
    """What most questions about the same subject share with the prompt; None where the row has no
    such question."""
    number = optional(row, "edit.subject_id")
    shared = Counter(
        name
        for query in _queries(row, *LOCALITY, *HOPS)
        if optional(query, "subject_id") == number
        if (name := _shared_name(prompt, optional(query, "prompt") or ""))
    )
    return next((named(name, prompt) for name, _ in shared.most_common(1)), None)


def _shared_name(first: str, second: str) -> str:
    """The longest run of words that both statements have, without the words that stand beside a
    subject; empty where none looks like a name."""
    words, other = first.split(), f" {second} "
    ends = range(1, len(words) + 1)
    runs = (" ".join(words[start:end]) for end in ends for start in range(end))
    names = (_AFTER.sub("", _BEFORE.sub("", run)) for run in runs if f" {run} " in other)
    return max((name for name in names if not name.islower()), key=len, default="")


def _queries(row: Row, *groups: str) -> list[Row]:
    """The questions in the tests of some groups."""
    tests = (test for group in groups for test in objects(row, group))
    return [query for test in tests for query in objects(test, "test_queries")]


RIPPLE_EDITS = Format(
    "rippleedits",
    "RippleEdits",
    ("edit.prompt", "edit.subject_id", "edit.target_id"),
    _facts,
)
