"""Scores of a set of edits: reliability, generalization, locality, and what was decided.

Free-running answers with natural stopping come first. The teacher-forced columns are for comparison
with papers: there the target's own tokens are given, and nothing has to learn to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import cast

import torch

from editors.evaluation.metrics import AgeBand, Rate, is_right, retention
from editors.facts import Fact
from editors.inference.batching import Budget, batches
from editors.inference.decisions import UNCLAIMED, Decision
from editors.inference.edited_model import EditedModel
from editors.inference.generation import EXTRA_TOKENS, Answer, answers
from editors.inference.next_tokens import digests
from editors.model.base_model import Base
from editors.model.tokenization import IGNORED, Row, answer_length, encode_pairs, require_fit
from editors.text_matching import normalised

Attach = Callable[[], AbstractContextManager[EditedModel]]


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
class EditScores:
    """All scores of a set of facts, each with its n and interval.

    ``old_answers``: prompts and rephrases still answered by the fact's ``ground_truth``.
    ``identical``: locality prompts whose logits are the base's, bit for bit. ``opened_in_scope``:
    prompts and rephrases that their own fact claimed (where decisions name no facts: any edit).
    ``opened_out_of_scope``: locality prompts that any edit claimed. The last two have no outcomes
    where the edits are always on.
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


def score_edits(
    base: Base,
    attach: Attach,
    facts: Sequence[Fact],
    *,
    teacher_forced: bool = True,
    on_stage: Callable[[str], None] = lambda _: None,
) -> EditScores:
    """Score ``facts``, in the order of editing, on the base that ``attach`` edits.

    Locality compares with the base's own answers, taken here with nothing attached.
    """
    asked = _Prompts(facts)
    tokens = _max_new_tokens(base, facts)
    unedited = EditedModel.unedited(base)
    on_stage("base answers")
    before = dict(zip(asked.local, answers(unedited, asked.local, tokens), strict=True))
    before_digests = digests(unedited, asked.local)
    local_pairs = [(prompt, answer.text) for prompt, answer in before.items() if answer.text]
    before_forced = _argmax_ids(unedited, local_pairs) if teacher_forced else []
    with attach() as edited:
        on_stage("edited answers")
        after = dict(zip(asked.all, answers(edited, asked.all, tokens), strict=True))
        on_stage("logits")
        identical = map(bytes.__eq__, before_digests, digests(edited, asked.local))
        forced = None
        if teacher_forced:
            on_stage("teacher-forced")
            forced = _teacher_forced(edited, facts, local_pairs, before_forced)
        same = Rate.of_all(identical)
    kept = {prompt: _same(after[prompt], before[prompt]) for prompt in asked.local}
    scored = [_of_fact(fact, after, kept) for fact in facts]
    in_scope = [(fact, prompt) for fact in facts for prompt in (fact.prompt, *fact.rephrases)]
    routed = all(answer.decision is not None for answer in after.values())
    return EditScores(
        facts=len(facts),
        reliability=Rate.of_all(s.reliable for s in scored),
        generalization=Rate.of_all(ok for s in scored for ok in s.rephrases),
        near=Rate.of_all(ok for s in scored for ok in s.near),
        far=Rate.of_all(ok for s in scored for ok in s.far),
        locality=Rate.of_all(ok for s in scored for ok in (*s.near, *s.far)),
        portability=Rate.of_all(
            is_right(after[probe.prompt], probe.answer)
            for fact in facts
            for probe in fact.portability
            if probe.answer is not None
        ),
        old_answers=Rate.of_all(
            normalised(after[prompt].text) == normalised(fact.ground_truth)
            for fact, prompt in in_scope
            if fact.ground_truth is not None
        ),
        identical=same,
        opened_in_scope=Rate.of_all(
            _claimed_by(after[prompt].decision, fact) for fact, prompt in in_scope if routed
        ),
        opened_out_of_scope=Rate.of_all(
            (after[prompt].decision or UNCLAIMED).opened for prompt in asked.local if routed
        ),
        retention=tuple(retention([float(s.reliable) for s in scored])),
        teacher_forced=forced,
        per_fact=tuple(scored),
    )


class _Prompts:
    """The prompts to be asked, each once: ``local`` must not change, ``all`` are asked."""

    def __init__(self, facts: Sequence[Fact]) -> None:
        local = [probe.prompt for fact in facts for probe in fact.locality]
        scope = [prompt for fact in facts for prompt in (fact.prompt, *fact.rephrases)]
        further = [probe.prompt for fact in facts for probe in fact.portability]
        self.local = list(dict.fromkeys(local))
        self.all = list(dict.fromkeys([*scope, *local, *further]))


def _claimed_by(decision: Decision | None, fact: Fact) -> bool:
    return decision is not None and decision.opened and decision.fact in (None, fact.id)


def _same(answer: Answer, before: Answer) -> bool:
    return answer.stopped == before.stopped and normalised(answer.text) == normalised(before.text)


def _of_fact(fact: Fact, said: Mapping[str, Answer], kept: Mapping[str, bool]) -> FactScore:
    return FactScore(
        fact.id,
        said[fact.prompt].text,
        is_right(said[fact.prompt], fact.target),
        tuple(is_right(said[prompt], fact.target) for prompt in fact.rephrases),
        tuple(kept[probe.prompt] for probe in fact.locality if probe.kind == "near"),
        tuple(kept[probe.prompt] for probe in fact.locality if probe.kind == "far"),
    )


def _max_new_tokens(base: Base, facts: Sequence[Fact]) -> int:
    """How many tokens an answer may have: the longest wanted one and a little more."""
    texts = [text for fact in facts for text in (fact.target, fact.ground_truth) if text]
    texts += [p.answer for f in facts for p in (*f.locality, *f.portability) if p.answer]
    return (answer_length(base.tokenizer, texts) or 8) + EXTRA_TOKENS


# --- teacher forcing ------------------------------------------------------------------------------


def _teacher_forced(
    edited: EditedModel,
    facts: Sequence[Fact],
    local_pairs: Sequence[tuple[str, str]],
    before: Sequence[list[int]],
) -> TeacherForced:
    """The published scores: the share of target tokens whose argmax is right, gold tokens given."""

    def accuracy(pairs: list[tuple[str, str]]) -> Rate:
        gold = [row.ids[row.prompt_length :] for row in _rows(edited.base, pairs)]
        return Rate.of([*map(_share_equal, _argmax_ids(edited, pairs), gold)])

    return TeacherForced(
        accuracy([(fact.prompt, fact.target) for fact in facts]),
        accuracy([(prompt, fact.target) for fact in facts for prompt in fact.rephrases]),
        Rate.of([*map(_share_equal, _argmax_ids(edited, local_pairs), before)]),
    )


def _share_equal(guess: Sequence[int], gold: Sequence[int]) -> float:
    return sum(a == b for a, b in zip(guess, gold, strict=True)) / len(gold)


def _rows(base: Base, pairs: Sequence[tuple[str, str]]) -> list[Row]:
    rows = encode_pairs(base.tokenizer, pairs, stop=False)
    for (prompt, _), row in zip(pairs, rows, strict=True):
        require_fit(row, prompt, base.architecture.context)
    return rows


@torch.inference_mode()
def _argmax_ids(model: EditedModel, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
    """For each prompt and answer, the likeliest ids at the answer's positions; decided by
    prompt."""
    base = model.base
    rewritten = model.rewritten([prompt for prompt, _ in pairs])
    texts = [cast(str, prompt) for prompt, _ in rewritten]  # a text is rewritten to a text
    rows = _rows(base, [(text, answer) for text, (_, answer) in zip(texts, pairs, strict=True)])
    found: dict[int, list[int]] = {}
    budget = Budget(logits_per_token=base.vocabulary)
    for part in batches([len(row.ids) for row in rows], budget):
        batch = base.batch([rows[i] for i in part])
        with model.scoring(batch.prompt_lengths):
            logits = base.model(
                input_ids=batch.ids, attention_mask=batch.mask, use_cache=False
            ).logits
        guesses = logits[:, :-1].argmax(-1)
        wanted = batch.labels()[:, 1:] != IGNORED
        for i, guess, keep in zip(part, guesses, wanted, strict=True):
            found[i] = guess[keep].tolist()
    return [found[i] for i in range(len(rows))]
