"""Checking a set of edits: reliability, generalization, locality, and what the router did.

Free-running answers with natural stopping come first; the teacher-forced columns are there to be
compared with papers (design: a router that sees gold tokens, and no stop to learn).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from editors.evaluation.metrics import AgeBand, Rate, is_right, normalised, retention
from editors.facts import Fact
from editors.inference.attach import Attached
from editors.inference.generation import Answer, answers
from editors.inference.hidden_states import last_logits
from editors.model.base_model import Base
from editors.model.tokenization import IGNORED, Row, encode_pairs, encode_prompt, require_fit
from editors.scope.base import Decision

ROOM = 4  # tokens an answer may run past the longest target before it counts as not stopping
SCORED_AT_ONCE = 256

Attach = Callable[[], AbstractContextManager[Attached]]


@dataclass(frozen=True, slots=True)
class FactScore:
    """One fact: was each prompt answered as wanted, and what was said to the edited prompt."""

    id: str
    answer: str
    reliable: bool
    rephrases: tuple[bool, ...]
    near: tuple[bool, ...]
    far: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class TeacherForced:
    """Token accuracy as published: the gold tokens are given, only their argmax is compared."""

    reliability: Rate
    generalization: Rate
    locality: Rate


@dataclass(frozen=True, slots=True)
class Scores:
    """All scores of a set of facts, each with its n and interval.

    ``old_answers``: prompts and rephrases still answered by the fact's ``ground_truth``;
    ``identical``: locality prompts whose logits are the base's bit for bit; ``opened_in_scope``:
    prompts and rephrases routed to their own fact (activation router: to any side memory);
    ``opened_out_of_scope``: locality prompts routed to any side memory.
    """

    facts: int
    reliability: Rate
    generalization: Rate
    near: Rate
    far: Rate
    locality: Rate
    portability: Rate
    old_answers: Rate
    identical: Rate
    opened_in_scope: Rate
    opened_out_of_scope: Rate
    retention: tuple[AgeBand, ...]
    teacher_forced: TeacherForced | None = None
    per_fact: tuple[FactScore, ...] = field(default=())


def check(
    base: Base,
    attach: Attach,
    facts: Sequence[Fact],
    *,
    teacher_forced: bool = True,
    on_stage: Callable[[str], None] = lambda _: None,
) -> Scores:
    """Score ``facts``, in the order of editing, on the base that ``attach`` edits.

    Locality compares with the base's own answers, taken here with nothing attached.
    """
    asked = _Prompts(facts)
    room = _room(base, facts)
    on_stage("base answers")
    before = answers(base, asked.local, room)
    before_logits = last_logits(base, asked.local)
    before_forced = _forced(base, _pairs(asked.local, before), None) if teacher_forced else []
    with attach() as edited:
        on_stage("edited answers")
        after, decisions = _answers(base, edited, asked.all, room)
        on_stage("logits")
        identical = [
            torch.equal(a, b)
            for a, b in zip(before_logits, last_logits(base, asked.local), strict=True)
        ]
        forced = None
        if teacher_forced:
            on_stage("teacher-forced")
            forced = _teacher_forced(base, edited, asked, before, before_forced)
    said = dict(zip(asked.all, after, strict=True))
    routed = dict(zip(asked.all, decisions, strict=True))
    originally = dict(zip(asked.local, before, strict=True))
    kept = {p: _same(said[p], originally[p]) for p in asked.local}
    scored = [_of_fact(fact, said, kept) for fact in facts]
    in_scope = [(fact, p) for fact in facts for p in (fact.prompt, *fact.rephrases)]
    return Scores(
        facts=len(facts),
        reliability=_rate([s.reliable for s in scored]),
        generalization=_rate([ok for s in scored for ok in s.rephrases]),
        near=_rate([ok for s in scored for ok in s.near]),
        far=_rate([ok for s in scored for ok in s.far]),
        locality=_rate([ok for s in scored for ok in (*s.near, *s.far)]),
        portability=_rate(
            [
                is_right(said[probe.prompt], probe.answer)
                for fact in facts
                for probe in fact.portability
                if probe.answer is not None
            ]
        ),
        old_answers=_rate(
            [
                normalised(said[p].text) == normalised(fact.ground_truth)
                for fact, p in in_scope
                if fact.ground_truth is not None
            ]
        ),
        identical=_rate(identical),
        opened_in_scope=_rate([_own(routed[p], fact) for fact, p in in_scope]),
        opened_out_of_scope=_rate([routed[p].opened for p in asked.local]),
        retention=tuple(retention([float(s.reliable) for s in scored])),
        teacher_forced=forced,
        per_fact=tuple(scored),
    )


class _Prompts:
    """The prompts that a check asks, each once: ``local`` must not change, ``all`` are asked."""

    def __init__(self, facts: Sequence[Fact]) -> None:
        self.facts = facts
        local = [probe.prompt for fact in facts for probe in fact.locality]
        scope = [p for fact in facts for p in (fact.prompt, *fact.rephrases)]
        further = [probe.prompt for fact in facts for probe in fact.portability]
        self.local = list(dict.fromkeys(local))
        self.all = list(dict.fromkeys([*scope, *local, *further]))


def _own(decision: Decision, fact: Fact) -> bool:
    return decision.opened and decision.fact in (None, fact.id)


def _same(answer: Answer, before: Answer) -> bool:
    return answer.stopped == before.stopped and normalised(answer.text) == normalised(before.text)


def _of_fact(fact: Fact, said: dict[str, Answer], kept: dict[str, bool]) -> FactScore:
    return FactScore(
        fact.id,
        said[fact.prompt].text,
        is_right(said[fact.prompt], fact.target),
        tuple(is_right(said[p], fact.target) for p in fact.rephrases),
        tuple(kept[probe.prompt] for probe in fact.locality if probe.kind == "near"),
        tuple(kept[probe.prompt] for probe in fact.locality if probe.kind == "far"),
    )


def _room(base: Base, facts: Sequence[Fact]) -> int:
    """How many tokens an answer may have: the longest wanted one and a little more."""
    texts = [t for fact in facts for t in (fact.target, fact.ground_truth) if t is not None]
    texts += [
        p.answer for f in facts for p in (*f.locality, *f.portability) if p.answer is not None
    ]
    longest = max((len(encode_prompt(base.tokenizer, f" {t}")) for t in set(texts)), default=8)
    return longest + ROOM


def _answers(
    base: Base, edited: Attached, prompts: Sequence[str], room: int
) -> tuple[list[Answer], list[Decision]]:
    """Answers and the decision taken for each, at prefill."""
    with edited.recording() as found:  # by tokens: two prompts may be the same to the model
        said = answers(base, prompts, room)
    return said, [found[encode_prompt(base.tokenizer, prompt)] for prompt in prompts]


# --- teacher forcing ------------------------------------------------------------------------------


def _pairs(prompts: Sequence[str], said: Sequence[Answer]) -> list[tuple[str, str]]:
    return [(p, a.text) for p, a in zip(prompts, said, strict=True) if a.text]


def _teacher_forced(
    base: Base,
    edited: Attached,
    asked: _Prompts,
    before: Sequence[Answer],
    before_forced: list[list[int]],
) -> TeacherForced:
    """The published scores: share of target tokens whose argmax is right, gold tokens given."""

    def accuracy(pairs: list[tuple[str, str]]) -> Rate:
        rows = _rows(base, pairs)
        guessed = _forced(base, pairs, edited)
        return Rate.of(
            [
                _share(guess, row.ids[row.prompt_length :])
                for guess, row in zip(guessed, rows, strict=True)
            ]
        )

    facts = asked.facts
    local = _forced(base, _pairs(asked.local, before), edited)
    return TeacherForced(
        accuracy([(fact.prompt, fact.target) for fact in facts]),
        accuracy([(p, fact.target) for fact in facts for p in fact.rephrases]),
        Rate.of([_share(a, tuple(b)) for a, b in zip(local, before_forced, strict=True)]),
    )


def _share(guess: Sequence[int], gold: Sequence[int]) -> float:
    return sum(a == b for a, b in zip(guess, gold, strict=True)) / len(gold)


def _rows(base: Base, pairs: Sequence[tuple[str, str]]) -> list[Row]:
    rows = encode_pairs(base.tokenizer, pairs, stop=False)
    for (prompt, _), row in zip(pairs, rows, strict=True):
        require_fit(row, prompt, base.architecture.context)
    return rows


@torch.inference_mode()
def _forced(
    base: Base, pairs: Sequence[tuple[str, str]], edited: Attached | None
) -> list[list[int]]:
    """For each prompt and answer, the argmax ids at the answer's positions; routed by prompt."""
    rows = _rows(base, pairs)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    found: dict[int, list[int]] = {}
    for start in range(0, len(order), SCORED_AT_ONCE):
        part = order[start : start + SCORED_AT_ONCE]
        batch = base.batch([rows[i] for i in part])
        with edited.scoring(batch.prompt_lengths) if edited is not None else nullcontext():
            logits = base.model(
                input_ids=batch.ids, attention_mask=batch.mask, use_cache=False
            ).logits
        guesses = logits[:, :-1].argmax(-1)
        wanted = batch.labels()[:, 1:] != IGNORED
        for i, guess, keep in zip(part, guesses, wanted, strict=True):
            found[i] = guess[keep].tolist()
    return [found[i] for i in range(len(rows))]


def _rate(outcomes: Sequence[bool]) -> Rate:
    return Rate.of([float(outcome) for outcome in outcomes])
