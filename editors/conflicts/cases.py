"""Questions with a passage: what a row is, and which source an answer comes from.

A conflict is a question whose answer the model holds in memory, after a passage that says something
else (PH3, arXiv 2402.18154; the kinds of context are those of CUB, arXiv 2505.16518).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

import torch

from editors.errors import InvalidConflict
from editors.evaluation.metrics import Rate, normalised
from editors.facts import Fact
from editors.inference.attach import Attached
from editors.inference.generation import Answer, answers
from editors.inference.hidden_states import Ids, last_logits
from editors.model.base_model import Base
from editors.model.tokenization import encode_pair, encode_prompt, encode_prompts
from editors.scope.base import Decision
from editors.text_matching import words

Kind = Literal["substitution", "coherent", "irrelevant", "gold"]
Split = Literal["locate", "dev", "test"]
Outcome = Literal["memory", "context", "before", "other"]

CONFLICTING: tuple[Kind, ...] = ("substitution", "coherent")
FIRST_WORDS = 5  # of an answer, among which what it names is looked for (JuICE)
ROOM = 4  # tokens an answer may run past the longest known one


@dataclass(frozen=True, slots=True)
class Conflict:
    """One row of a conflict file.

    ``memory_answer``: what the model answers without a passage, elicited where it is None;
    ``context_answer``: what the passage says, empty where it is irrelevant; ``subject``: must
    occur in the question if given.
    """

    question: str
    context: str
    context_answer: str = ""
    memory_answer: str | None = None
    relation: str | None = None
    subject: str | None = None
    kind: Kind = "substitution"
    split: Split | None = None

    @property
    def prompt(self) -> str:
        """The passage and then the question."""
        return f"{self.context} {self.question}"

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Conflict:
        """Read a JSON object; keys that start with ``x_`` are left alone.

        Raises:
            InvalidConflict: naming every key at fault.
        """
        known = {item.name for item in fields(Conflict)}
        problems = [f"unknown key {k!r}" for k in values if k not in known and k[:2] != "x_"]
        given = {k: v for k, v in values.items() if k in known and v is not None}
        problems += [f"{k}: must be a text" for k, v in given.items() if not isinstance(v, str)]
        if not problems:
            problems = _problems(given)
        if problems:
            raise InvalidConflict("; ".join(problems))
        return Conflict(**given)


def _problems(given: Mapping[str, str]) -> list[str]:
    problems = [
        f"{k}: is required" for k in ("question", "context") if not given.get(k, "").strip()
    ]
    kind = given.get("kind", "substitution")
    if kind not in get_args(Kind):
        problems.append(f"kind: must be one of {', '.join(get_args(Kind))}, not {kind!r}")
    split = given.get("split")
    if split is not None and split not in get_args(Split):
        problems.append(f"split: must be one of {', '.join(get_args(Split))}, not {split!r}")
    memory, context = given.get("memory_answer"), given.get("context_answer", "")
    if kind != "irrelevant" and not context.strip():
        problems.append("context_answer: is required")
    if memory is not None and not memory.strip():
        problems.append("memory_answer: is empty; leave it out to have the model asked")
    if kind in CONFLICTING and memory and normalised(memory) == normalised(context):
        problems.append(f"context_answer: {context!r} is the memory answer, so nothing conflicts")
    if "subject" in given and given["subject"] not in given.get("question", ""):
        problems.append(f"subject: {given['subject']!r} does not occur in the question")
    return problems


@dataclass(frozen=True, slots=True)
class Asked:
    """A row and what each source answers.

    ``memory``: the model's own answer, or that of the edit in force where the question is about
    one; then ``fact`` is its id and ``before`` what the base answered without it.
    """

    row: Conflict
    memory: str
    fact: str | None = None
    before: str | None = None

    @property
    def candidates(self) -> dict[Outcome, str]:
        """Each outcome that an answer can be recognised as, and by what; the first wins a tie."""
        found: dict[Outcome, str] = {"memory": self.memory}
        if self.row.kind != "irrelevant":
            found["context"] = self.row.context_answer
        if self.before is not None:
            found["before"] = self.before
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
    def wanted(self) -> str:
        """What CUB scores as right: the context's answer, or memory's where it is irrelevant."""
        return self.memory if self.row.kind == "irrelevant" else self.row.context_answer


# --- asking ---------------------------------------------------------------------------------------


def with_memory(base: Base, rows: Sequence[Conflict], max_new_tokens: int = 16) -> list[Asked]:
    """The rows with their memory answers, elicited closed-book where they are not given.

    The base must be on main memory. Rows that it gives no answer to are left out.
    """
    silent = [row for row in rows if row.memory_answer is None]
    questions = list(dict.fromkeys(row.question for row in silent))
    said = dict(zip(questions, answers(base, questions, max_new_tokens), strict=True))
    known = [Asked(row, row.memory_answer or _short(said[row.question])) for row in rows]
    return [asked for asked in known if asked.memory]


def _short(answer: Answer) -> str:
    """An elicited answer: all of it where it stopped by itself, else its first sentence's words."""
    if answer.stopped:
        return answer.text
    return " ".join(re.split(r"[.\n]", answer.text, maxsplit=1)[0].split()[:FIRST_WORDS])


def with_edits(
    base: Base, asked: Sequence[Asked], edited: Attached, facts: Mapping[str, Fact]
) -> list[Asked]:
    """The rows, those about an edit in force with its target as memory (PH3 section 5.1).

    Others whose passage was to speak against memory, and says what the model says, are left out.

    A question is about an edit where the router, asked without the passage, opens that fact;
    ``facts``: those in force, by id. ``edited`` must be attached.
    """
    routed = decisions(base, edited, [a.row.question for a in asked])
    found = []
    for a, decision in zip(asked, routed, strict=True):
        fact = facts.get(decision.fact or "") if decision.opened else None
        found.append(replace(a, memory=fact.target, before=a.memory, fact=fact.id) if fact else a)
    return [a for a in found if a.fact or not (a.conflicting and a.agreeing)]


def decisions(base: Base, edited: Attached, prompts: Sequence[str]) -> list[Decision]:
    """Where the router sends each prompt."""
    encoded = encode_prompts(base.tokenizer, prompts)
    with edited.recording() as found:
        last_logits(base, prompts, lambda logits: logits[:, :0])  # only routing is wanted
    return [found[ids] for ids in encoded]


def first_token(base: Base, prompt: str, answer: str) -> int:
    """The first token of ``answer`` as it follows ``prompt``."""
    row = encode_pair(base.tokenizer, prompt, answer, stop=False, context=None)
    return row.ids[row.prompt_length]


def next_probabilities(base: Base, prompts: Sequence[str]) -> torch.Tensor:
    """float32 ``[prompts, vocab]``: the next-token distribution after each prompt."""
    return torch.stack(last_logits(base, prompts, lambda logits: logits.float().softmax(-1).cpu()))


# --- judging --------------------------------------------------------------------------------------


def outcome_of(text: str, candidates: Mapping[Outcome, str]) -> tuple[Outcome, bool]:
    """Which candidate ``text`` names within its first words, and whether it names several.

    Whole words are compared, without case, accents and punctuation (PH3 section 1.4). The earliest
    wins, then the longest, then the first of the candidates.
    """
    said = _words(text)
    found: dict[Outcome, tuple[int, int]] = {}
    for name, wanted in candidates.items():
        named = _words(wanted)
        for start in range(max(FIRST_WORDS, len(named)) - len(named) + 1 if named else 0):
            if said[start : start + len(named)] == named:
                found[name] = (start, -len(named))
                break
    if not found:
        return "other", False
    return min(found, key=lambda name: found[name]), len(set(found.values())) > 1


def _words(text: str) -> list[str]:
    """Words without case, accents and punctuation; each character where words are not spaced."""
    plain = unicodedata.normalize("NFD", text.casefold())
    return words("".join(c for c in plain if not unicodedata.combining(c)))


def context_utilisation(without: float, told: float) -> float:
    """CCU (CUB): how far a passage moves the probability of an answer, in [-1, 1].

    The share of the way to 1 where it rises from ``without`` to ``told``, to 0 where it falls.
    """
    if told >= without:
        return (told - without) / (1 - without) if without < 1 else 0.0
    return (told - without) / without


def memorization_ratio(memory: float, context: float) -> float | None:
    """M_R (Longpre et al., 2021): memory answers among those of either source; None for none."""
    return memory / (memory + context) if memory + context else None


# --- measuring ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RowResult:
    """How one row was answered.

    ``several``: the answer names more than one source's; ``first``: the outcome by the first token
    alone; ``utilisation``: CCU of what CUB wants of such a row (both None where the answer is not
    plainly decoded); ``opened``: the router opened side memory with the passage there (None:
    nothing is attached).
    """

    asked: Asked
    answer: str
    outcome: Outcome
    several: bool
    first: Outcome | None = None
    utilisation: float | None = None
    opened: bool | None = None


@dataclass(frozen=True, slots=True)
class Rates:
    """Shares of rows by outcome, each with its n and interval."""

    memory: Rate
    context: Rate
    other: Rate
    before: Rate

    @staticmethod
    def of(outcomes: Sequence[Outcome]) -> Rates:
        def rate(name: Outcome) -> Rate:
            return Rate.of([float(o == name) for o in outcomes])

        return Rates(rate("memory"), rate("context"), rate("other"), rate("before"))


@dataclass(frozen=True, slots=True)
class Measured:
    """How rows were answered; rates and ratios are views on ``results``."""

    results: tuple[RowResult, ...] = field(default=())

    def only(self, keep: Callable[[RowResult], bool]) -> Measured:
        return Measured(tuple(result for result in self.results if keep(result)))

    @property
    def conflicting(self) -> Measured:
        """The rows whose passage speaks against memory."""
        return self.only(lambda result: result.asked.conflicting)

    @property
    def edited(self) -> Measured:
        """The rows about an edit in force."""
        return self.only(lambda result: result.asked.fact is not None)

    @property
    def rates(self) -> Rates:
        return Rates.of([result.outcome for result in self.results])

    @property
    def first_token_rates(self) -> Rates:
        return Rates.of([result.first for result in self.results if result.first])

    @property
    def binary_utilisation(self) -> Rate:
        """BCU (CUB): the answer is the context's, or memory's where the context is irrelevant."""
        return Rate.of([float(_follows(result)) for result in self.results])

    @property
    def utilisation(self) -> float:
        """CCU (CUB), the mean over rows; NaN without rows."""
        values = [r.utilisation for r in self.results if r.utilisation is not None]
        return sum(values) / len(values) if values else float("nan")

    @property
    def memorization_ratio(self) -> float | None:
        rates = self.rates
        return memorization_ratio(rates.memory.value, rates.context.value) if self.results else None

    def by(self, key: Callable[[Asked], str | None]) -> dict[str, Measured]:
        """The rows grouped by ``key``, those without one left out, in the order of names."""
        grouped: dict[str, list[RowResult]] = {}
        for result in self.results:
            name = key(result.asked)
            if name is not None:
                grouped.setdefault(name, []).append(result)
        return {name: Measured(tuple(grouped[name])) for name in sorted(grouped)}


def _follows(result: RowResult) -> bool:
    asked = result.asked
    if asked.row.kind == "gold" and asked.fact is None:  # the passage says what memory says
        return result.outcome in ("memory", "context")
    return result.outcome == ("memory" if asked.row.kind == "irrelevant" else "context")


Ask = Callable[[Sequence[Asked], int], list[Answer]]
"""Answers rows, each in at most so many tokens: plain decoding, or a rival of pruning."""


def measure(
    base: Base, asked: Sequence[Asked], edited: Attached | None = None, ask: Ask | None = None
) -> Measured:
    """How the base, with whatever is attached to it, answers these rows.

    ``edited``: the edits that are attached; ``ask``: another way to answer than greedy decoding of
    passage and question.
    """
    if not asked:
        return Measured()
    prompts = [a.row.prompt for a in asked]
    room = answer_room(base, asked)
    nothing: Mapping[Ids, Decision] = {}
    with edited.recording() if edited else nullcontext(nothing) as routed:
        said = ask(asked, room) if ask else answers(base, prompts, room)
    results = []
    for a, answer in zip(asked, said, strict=True):
        outcome, several = outcome_of(answer.text, a.candidates)
        decision = routed.get(encode_prompt(base.tokenizer, a.row.prompt))
        opened = None if decision is None else decision.opened
        results.append(RowResult(a, answer.text, outcome, several, opened=opened))
    return Measured(tuple(results if ask else _with_first_tokens(base, results)))


def _with_first_tokens(base: Base, results: Sequence[RowResult]) -> list[RowResult]:
    """The results with what the first token of plain decoding says."""
    told = next_probabilities(base, [r.asked.row.prompt for r in results])
    without = next_probabilities(base, [r.asked.row.question for r in results])
    found = []
    for i, result in enumerate(results):
        wanted = first_token(base, result.asked.row.prompt, result.asked.wanted)
        moved = context_utilisation(float(without[i, wanted]), float(told[i, wanted]))
        first = outcome_of_token(base, result.asked, int(told[i].argmax()))
        found.append(replace(result, first=first, utilisation=moved))
    return found


def answer_room(base: Base, asked: Sequence[Asked]) -> int:
    """How many tokens an answer may have: the longest known one and a little more."""
    texts = {text for a in asked for text in a.candidates.values() if text}
    return max((len(encode_prompt(base.tokenizer, f" {t}")) for t in texts), default=8) + ROOM


def outcome_of_token(base: Base, asked: Asked, token: int) -> Outcome:
    """The outcome as CUB takes it: whose answer begins with ``token``."""
    for name, text in asked.candidates.items():
        if text and first_token(base, asked.row.prompt, text) == token:
            return name
    return "other"
