"""Questions after a passage: the rows of a conflict file, and the source of an answer.

In a conflict, the model knows an answer from memory, and the passage before the question says
something else (PH3, arXiv 2402.18154). The kinds of passages are those of CUB (arXiv 2505.16518).
This module needs no tensor library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from editors.errors import InvalidConflict
from editors.schema import (
    String,
    Text,
    ValidationInfo,
    field_validator,
    model_validator,
    problems,
    record,
    without_nulls,
)
from editors.text_matching import normalised, plain_words

Kind = Literal["substitution", "coherent", "irrelevant", "gold"]
Split = Literal["locate", "dev", "test"]
Outcome = Literal["memory", "context", "before", "other"]
"""The source of an answer: memory (also an edit), the passage (context), the base before an edit,
or another."""

CONFLICTING: tuple[Kind, ...] = ("substitution", "coherent")
FIRST_WORDS = 5  # only this many words of an answer are searched (JuICE, arXiv 2503.10996)


@record(InvalidConflict)
class Conflict:
    """One row of a conflict file. Raises InvalidConflict, listing every problem.

    ``memory_answer``: the answer of the model without a passage, None if it is to be elicited;
    ``context_answer``: the answer of the passage, empty for an irrelevant passage; ``subject``: of
    the question, in which it must occur; ``split``: what the row is used for.
    """

    question: Text
    context: Text
    context_answer: String = ""
    memory_answer: Text | None = None
    relation: String | None = None
    subject: String | None = None
    kind: Kind = "substitution"
    split: Split | None = None

    @field_validator("subject")
    @classmethod
    def _in_question(cls, subject: str | None, info: ValidationInfo) -> str | None:
        if subject is not None and subject not in info.data.get("question", subject):
            raise ValueError(f"{subject!r} does not occur in the question")
        return subject

    @model_validator(mode="after")
    def _says_something_else(self) -> Conflict:
        if problem := _no_conflict(self.kind, self.memory_answer, self.context_answer):
            raise ValueError(problem)
        return self

    @property
    def prompt(self) -> str:
        """The passage, followed by the question."""
        return f"{self.context} {self.question}"

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Conflict:
        """The row that a parsed JSON object describes. Keys that begin with ``x_`` are ignored.

        Raises:
            InvalidConflict: the object breaks the schema; every problem is listed.
        """
        fields = {key: value for key, value in values.items() if not key.startswith("x_")}
        if messages := problems(Conflict, fields):
            kind, memory = fields.get("kind", "substitution"), fields.get("memory_answer")
            # The schema checks this only if all fields are valid, but every problem is to be named.
            if problem := _no_conflict(kind, memory, fields.get("context_answer") or ""):
                messages.append(problem)
            raise InvalidConflict("; ".join(dict.fromkeys(messages)))
        return Conflict(**without_nulls(fields))


def _no_conflict(kind: Any, memory: Any, context: Any) -> str | None:
    """Why the answers of memory and context do not fit a row of this kind; None if they do."""
    if kind == "irrelevant" or not isinstance(context, str):
        return None
    if not context.strip():
        return "context_answer: is required"
    same = isinstance(memory, str) and normalised(memory) == normalised(context)
    if kind in CONFLICTING and same:
        return f"context_answer: {context!r} is the memory answer, so nothing conflicts"
    return None


@dataclass(frozen=True, slots=True)
class ConflictCase:
    """A row with the answer of each source.

    ``memory``: the answer of the model without a passage. If the question is about an edit in
    force, ``memory`` is the target of the edit, ``fact`` its id, and ``pre_edit_answer`` the answer
    of the base without it.
    """

    row: Conflict
    memory: str
    fact: str | None = None
    pre_edit_answer: str | None = None

    @property
    def candidates(self) -> dict[Outcome, str]:
        """By outcome, the answer that it is recognised by. In a tie, the first outcome wins."""
        answers: dict[Outcome, str] = {"memory": self.memory}
        if self.row.kind != "irrelevant":
            answers["context"] = self.row.context_answer
        if self.pre_edit_answer is not None:
            answers["before"] = self.pre_edit_answer
        return answers

    @property
    def conflicting(self) -> bool:
        """Whether the passage contradicts memory. A passage with the old answer contradicts an
        edit."""
        if self.fact is None:
            return self.row.kind in CONFLICTING
        return self.row.kind != "irrelevant" and not self.agreeing

    @property
    def agreeing(self) -> bool:
        """Whether the passage and memory have the same answer."""
        return normalised(self.memory) == normalised(self.row.context_answer)

    @property
    def right_answer(self) -> str:
        """The answer that CUB counts as right: that of the passage, or of memory if the passage is
        irrelevant."""
        return self.memory if self.row.kind == "irrelevant" else self.row.context_answer


def searched_words(answer: str) -> int:
    """How many of the first words of a text are searched for ``answer``."""
    return max(FIRST_WORDS, len(plain_words(answer)))


def outcome_of(text: str, candidates: Mapping[Outcome, str]) -> tuple[Outcome, bool]:
    """The candidate that ``text`` names in its first words ("other" for none), and whether it names
    several.

    Whole words are compared, without case, accents and punctuation. The earliest match wins, then
    the longest, then the first of the candidates.
    """
    answer = plain_words(text)
    matches: dict[Outcome, tuple[int, int]] = {}
    for name, wanted in candidates.items():
        sought = plain_words(wanted)
        starts = range(max(FIRST_WORDS - len(sought), 0) + 1)
        found = [i for i in starts if sought and answer[i : i + len(sought)] == sought]
        if found:
            matches[name] = (found[0], -len(sought))
    if not matches:
        return "other", False
    return min(matches, key=lambda name: matches[name]), len(set(matches.values())) > 1
