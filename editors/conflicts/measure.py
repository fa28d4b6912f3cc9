"""How a model answers questions after passages: from memory, from the passage, or otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from editors.conflicts.cases import FIRST_WORDS, Conflict, ConflictCase, Outcome, outcome_of
from editors.conflicts.replies import Replies, reply_tokens
from editors.evaluation.metrics import Rate
from editors.facts import Fact
from editors.inference.edited_model import EditedModel
from editors.inference.generation import Answer, begun_answers
from editors.inference.next_tokens import after_prompts, likeliest
from editors.model.base_model import Base
from editors.model.tokenization import answer_limit, encode_pairs

# --- what each source answers ---------------------------------------------------------------------


def with_memory(
    base: Base,
    rows: Sequence[Conflict],
    max_new_tokens: int = 16,
    on_prompts: Callable[[int], None] = lambda _: None,
) -> list[ConflictCase]:
    """The rows with their memory answers. Missing ones are elicited: the base answers the question
    without passage and edits, in at most ``max_new_tokens`` tokens. Rows with an empty answer are
    left out. ``on_prompts`` is called with the number of further questions that are answered.

    Raises:
        PromptTooLong: a question leaves no room for an answer.
    """
    without_answer = [row for row in rows if row.memory_answer is None]
    questions = list(dict.fromkeys(row.question for row in without_answer))
    with base.probing():
        elicited = begun_answers(
            EditedModel.unedited(base),
            questions,
            max_new_tokens,
            None,
            lambda logits, _: [None] * len(logits),
            on_prompts,
        )
    answer_to = {q: answer for q, (answer, _) in zip(questions, elicited, strict=True)}
    cases = [
        ConflictCase(row, row.memory_answer or _short(answer_to[row.question])) for row in rows
    ]
    return [case for case in cases if case.memory]


def _short(answer: Answer) -> str:
    """The text of an elicited answer if it stopped by itself, else the first words of its first
    sentence."""
    if answer.stopped:
        return answer.text
    return " ".join(re.split(r"[.\n]", answer.text, maxsplit=1)[0].split()[:FIRST_WORDS])


def with_edits(
    edited: EditedModel, cases: Sequence[ConflictCase], facts: Mapping[str, Fact]
) -> list[ConflictCase]:
    """The cases, where those about an edit in force have its target as memory answer.

    A question is about an edit if the edit claims the question without the passage. If edits are
    always on, it has to be the edited prompt itself. ``facts``: the facts in force, by id. Cases of
    a conflicting kind whose passage agrees with memory are left out.
    """
    questions = [case.row.question for case in cases] if facts else []
    decided = after_prompts(edited, questions, lambda logits, _: [None] * len(logits))
    by_prompt = {fact.prompt: fact for fact in facts.values()}
    updated = []
    for case, (_, decision) in zip(cases, decided or [(None, None)] * len(cases), strict=True):
        if decision is None:
            fact = by_prompt.get(case.row.question)
        else:
            fact = facts.get(decision.fact or "") if decision.opened else None
        if fact is not None:
            case = replace(case, memory=fact.target, pre_edit_answer=case.memory, fact=fact.id)
        updated.append(case)
    return [case for case in updated if case.fact or not (case.conflicting and case.agreeing)]


def first_tokens(base: Base, pairs: Sequence[tuple[str, str]]) -> list[int]:
    """For each prompt and answer, the id of the first token of the answer after the prompt."""
    rows = encode_pairs(base.tokenizer, pairs, stop=False)
    return [row.ids[row.prompt_length] for row in rows]


def candidate_tokens(base: Base, cases: Sequence[ConflictCase]) -> list[dict[int, Outcome]]:
    """For each case, the outcome by the id of the answer's first token. If two candidates share
    their first token, the first candidate wins."""
    pairs = [(case.row.prompt, text) for case in cases for text in case.candidates.values()]
    tokens = iter(first_tokens(base, pairs))
    outcomes_by_token: list[dict[int, Outcome]] = []
    for case in cases:
        outcomes_by_token.append({})
        for name in case.candidates:
            outcomes_by_token[-1].setdefault(next(tokens), name)
    return outcomes_by_token


def first_outcomes(
    model: EditedModel, cases: Sequence[ConflictCase], candidates: Sequence[Mapping[int, Outcome]]
) -> list[Outcome]:
    """For each case, the outcome by the likeliest first token alone. ``candidates``: the result of
    :func:`candidate_tokens`."""
    tokens = likeliest(model, [case.row.prompt for case in cases])
    return [named.get(token, "other") for named, token in zip(candidates, tokens, strict=True)]


# --- measuring ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RowResult:
    """How one row was answered.

    ``several``: the answer names the answers of several sources; ``first``: the outcome by the
    first token alone; ``utilisation``: :func:`context_utilisation` of the right answer; ``alone``:
    the outcome where the question is asked without the passage (all three None without plain
    decoding); ``opened``: whether an edit claimed the prompt with the passage (None without a
    router or rewriter).
    """

    case: ConflictCase
    answer: str
    outcome: Outcome
    several: bool
    first: Outcome | None = None
    utilisation: float | None = None
    alone: Outcome | None = None
    opened: bool | None = None

    @property
    def known(self) -> bool | None:
        """Whether the model knows the fact: without the passage, it gives the memory answer of the
        row, or the target of an edit. None if the memory answer is no fact that was stated, but
        what the model said, or without plain decoding."""
        stated = self.case.row.memory_answer is not None or self.case.fact is not None
        return self.alone == "memory" if stated and self.alone is not None else None


class Rates(NamedTuple):
    """The share of rows with each outcome, with n and interval."""

    memory: Rate
    context: Rate
    other: Rate
    before: Rate

    @staticmethod
    def of(outcomes: Sequence[Outcome]) -> Rates:
        return Rates(*(Rate.of(o == name for o in outcomes) for name in Rates._fields))


@dataclass(frozen=True, slots=True)
class ConflictResults:
    """How some rows were answered, with rates and ratios."""

    results: tuple[RowResult, ...] = ()

    def only(self, keep: Callable[[RowResult], bool]) -> ConflictResults:
        return ConflictResults(tuple(result for result in self.results if keep(result)))

    @property
    def conflicting(self) -> ConflictResults:
        """The rows whose passage contradicts memory."""
        return self.only(lambda result: result.case.conflicting)

    @property
    def edited(self) -> ConflictResults:
        """The rows about an edit in force."""
        return self.only(lambda result: result.case.fact is not None)

    @property
    def known(self) -> ConflictResults:
        """The rows about facts that the model knows."""
        return self.only(lambda result: result.known is True)

    @property
    def unknown(self) -> ConflictResults:
        """The rows about facts that the model does not know."""
        return self.only(lambda result: result.known is False)

    @property
    def facts(self) -> int:
        """The number of different questions with a memory answer."""
        return len({(result.case.row.question, result.case.memory) for result in self.results})

    @property
    def rates(self) -> Rates:
        return Rates.of([result.outcome for result in self.results])

    @property
    def first_token_rates(self) -> Rates:
        return Rates.of([result.first for result in self.results if result.first])

    @property
    def binary_utilisation(self) -> Rate:
        """BCU (binary context utilisation; CUB, arXiv 2505.16518): the share of rows with the
        answer of the passage, or of memory if the passage is irrelevant."""
        return Rate.of(_is_right(result) for result in self.results)

    @property
    def utilisation(self) -> float:
        """CCU, the mean of :func:`context_utilisation` over rows; NaN without rows."""
        values = [r.utilisation for r in self.results if r.utilisation is not None]
        return sum(values) / len(values) if values else float("nan")

    @property
    def memorization_ratio(self) -> float | None:
        outcomes = [result.outcome for result in self.results]
        return memorization_ratio(outcomes.count("memory"), outcomes.count("context"))

    def by(self, key: Callable[[ConflictCase], str | None]) -> dict[str, ConflictResults]:
        """The rows grouped by ``key``, sorted by key. Rows whose key is None are left out."""
        grouped: dict[str, list[RowResult]] = {}
        for result in self.results:
            if (name := key(result.case)) is not None:
                grouped.setdefault(name, []).append(result)
        return {name: ConflictResults(tuple(grouped[name])) for name in sorted(grouped)}


def _is_right(result: RowResult) -> bool:
    case = result.case
    if case.row.kind == "gold" and case.fact is None:  # the passage says what memory says
        return result.outcome in ("memory", "context")
    return result.outcome == ("memory" if case.row.kind == "irrelevant" else "context")


Decoder = Callable[[Sequence[ConflictCase], int], list[Answer]]
"""A decoding method: the answers to cases, each of at most the given number of tokens."""


def measure(
    model: EditedModel,
    cases: Sequence[ConflictCase],
    decoder: Decoder | None = None,
    replies: Replies | None = None,
) -> ConflictResults:
    """How a base, with everything that is attached to it, answers ``cases``: first each question
    without its passage, then behind it.

    ``decoder``: replaces greedy decoding of passage and question. ``replies``: those of ``model``,
    to be shared with other measurements. Raises the errors of
    :func:`~editors.inference.generation.answers` or of ``decoder``.
    """
    if not cases:
        return ConflictResults()
    if decoder is None:
        asked = replies or Replies(model, sought_answers(cases))
        return ConflictResults(tuple(_results(asked, cases)))
    results = []
    answered = decoder(cases, reply_tokens(model.base, sought_answers(cases)))
    for case, answer in zip(cases, answered, strict=True):
        outcome, several = outcome_of(answer.text, case.candidates)
        results.append(RowResult(case, answer.text, outcome, several, opened=_opened(answer)))
    return ConflictResults(tuple(results))


def _results(replies: Replies, cases: Sequence[ConflictCase]) -> list[RowResult]:
    base = replies.model.base
    prompts, questions = prompts_of(cases)
    right = first_tokens(base, [(case.row.prompt, case.right_answer) for case in cases])
    tokens = [[token] for token in right]
    alone = replies.ask(questions, tokens)
    informed = replies.ask(prompts, tokens)
    outcomes_by_token = candidate_tokens(base, cases)
    results = []
    for i, case in enumerate(cases):
        outcome, several = outcome_of(informed[i].answer.text, case.candidates)
        moved = context_utilisation(
            alone[i].probabilities[right[i]], informed[i].probabilities[right[i]]
        )
        results.append(
            RowResult(
                case,
                informed[i].answer.text,
                outcome,
                several,
                outcomes_by_token[i].get(informed[i].first, "other"),
                moved,
                alone[i].outcome({"memory": case.memory}),
                _opened(informed[i].answer),
            )
        )
    return results


def _opened(answer: Answer) -> bool | None:
    return None if answer.decision is None else answer.decision.opened


def prompts_of(cases: Sequence[ConflictCase]) -> tuple[list[str], list[str]]:
    """The prompt of each case with its passage, and its question alone."""
    return [case.row.prompt for case in cases], [case.row.question for case in cases]


def sought_answers(cases: Sequence[ConflictCase]) -> list[str]:
    """All answers that the replies to ``cases`` are searched for."""
    return [text for case in cases for text in case.candidates.values()]


def max_answer_tokens(base: Base, cases: Sequence[ConflictCase]) -> int:
    """The most tokens of an answer: as many as the longest candidate has, and a few more."""
    return answer_limit(base.tokenizer, sought_answers(cases))


def context_utilisation(without: float, informed: float) -> float:
    """CCU (continuous context utilisation; CUB, arXiv 2505.16518), in [-1, 1]: how far a passage
    moves the probability of an answer from ``without`` to ``informed``.

    A rise is relative to the distance to 1, a fall is relative to ``without``.
    """
    if informed >= without:
        return (informed - without) / (1 - without) if without < 1 else 0.0
    return (informed - without) / without


def memorization_ratio(memory: float, context: float) -> float | None:
    """M_R (Longpre et al., 2021, arXiv 2109.05052): the share of memory answers in the answers from
    memory or context; None if there are none. ``memory``, ``context``: rates or counts."""
    return memory / (memory + context) if memory + context else None
