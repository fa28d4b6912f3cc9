"""Questions with a passage: what a row is, and which source an answer comes from.

A conflict is a question whose answer the model holds in memory, after a passage that says something
else (PH3, arXiv 2402.18154; the kinds of context are those of CUB, arXiv 2505.16518). Needs no
tensor library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationInfo, field_validator, model_validator

from editors.errors import InvalidConflict
from editors.schema import String, Text, problems, record, without_nulls
from editors.text_matching import normalised, plain_words

Kind = Literal["substitution", "coherent", "irrelevant", "gold"]
Split = Literal["locate", "dev", "test"]
Outcome = Literal["memory", "context", "before", "other"]
"""Whose answer it is: memory's (an edit's too), the passage's, the one before an edit, or
another."""

CONFLICTING: tuple[Kind, ...] = ("substitution", "coherent")
FIRST_WORDS = 5  # of an answer, among which what it names is looked for (JuICE)


@record(InvalidConflict)
class Conflict:
    """One row of a conflict file.

    ``memory_answer``: what the model answers without a passage, elicited where it is None;
    ``context_answer``: what the passage says, empty where it is irrelevant; ``subject``: must
    occur in the question if given.
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
        """The passage and then the question."""
        return f"{self.context} {self.question}"

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Conflict:
        """Read a JSON object; keys that begin with ``x_`` are left alone.

        Raises:
            InvalidConflict: naming every key at fault.
        """
        known = {key: value for key, value in values.items() if not key.startswith("x_")}
        if found := problems(Conflict, known):
            kind, memory = known.get("kind", "substitution"), known.get("memory_answer")
            # Looked at only where all else is right, and yet to be named with it.
            if more := _no_conflict(kind, memory, known.get("context_answer") or ""):
                found.append(more)
            raise InvalidConflict("; ".join(dict.fromkeys(found)))
        return Conflict(**without_nulls(known))


def _no_conflict(kind: Any, memory: Any, context: Any) -> str | None:
    """Why answers of memory and context make no row of this kind."""
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
    """A row and what each source answers.

    ``memory``: the model's own answer, or that of the edit in force where the question is about
    one. Then ``fact`` is the edit's id, and ``pre_edit_answer`` what the base says without it.
    """

    row: Conflict
    memory: str
    fact: str | None = None
    pre_edit_answer: str | None = None

    @property
    def candidates(self) -> dict[Outcome, str]:
        """Each outcome that an answer can be recognised as, and by what; the first wins a tie."""
        found: dict[Outcome, str] = {"memory": self.memory}
        if self.row.kind != "irrelevant":
            found["context"] = self.row.context_answer
        if self.pre_edit_answer is not None:
            found["before"] = self.pre_edit_answer
        return found

    @property
    def conflicting(self) -> bool:
        """The passage speaks against memory; a passage with the old answer, against an edit."""
        if self.fact is None:
            return self.row.kind in CONFLICTING
        return self.row.kind != "irrelevant" and not self.agreeing

    @property
    def agreeing(self) -> bool:
        """The passage says what memory says."""
        return normalised(self.memory) == normalised(self.row.context_answer)

    @property
    def right_answer(self) -> str:
        """What CUB scores as right: the context's answer, or memory's where it is irrelevant."""
        return self.memory if self.row.kind == "irrelevant" else self.row.context_answer


def outcome_of(text: str, candidates: Mapping[Outcome, str]) -> tuple[Outcome, bool]:
    """Which candidate ``text`` names within its first words, and whether it names several.

    Whole words are compared, without case, accents and punctuation. The earliest wins, then the
    longest, then the first of the candidates.
    """
    answer = plain_words(text)
    found: dict[Outcome, tuple[int, int]] = {}
    for name, wanted in candidates.items():
        named = plain_words(wanted)
        for start in range(max(FIRST_WORDS, len(named)) - len(named) + 1 if named else 0):
            if answer[start : start + len(named)] == named:
                found[name] = (start, -len(named))
                break
    if not found:
        return "other", False
    return min(found, key=lambda name: found[name]), len(set(found.values())) > 1
