"""Scores of a set of edits: reliability, generalization, locality, portability, and decisions.

The main scores compare free-running answers, which also have to stop. The teacher-forced scores are
for comparison with papers: the model is given the tokens of the target and need not stop.
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
from editors.model.tokenization import IGNORED, Row, answer_length, encode_pairs
from editors.text_matching import normalised

Attach = Callable[[], AbstractContextManager[EditedModel]]


@dataclass(frozen=True, slots=True)
class FactScore:
    """The scores of one fact. ``answer``: to the edited prompt; ``reliable``: it is the target;
    ``rephrases``, ``near``, ``far``: for each prompt, whether the answer is as it should be."""

    id: str
    answer: str
    reliable: bool
    rephrases: tuple[bool, ...]
    near: tuple[bool, ...]
    far: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class TeacherForced:
    """Teacher-forced token accuracy, as in papers: the likeliest tokens are compared, with the gold
    tokens as input."""

    reliability: Rate
    generalization: Rate
    locality: Rate


@dataclass(frozen=True, slots=True)
class EditScores:
    """All scores of ``facts`` facts, each with its n and interval.

    ``reliability``: edited prompts answered with the target; ``generalization``: rephrases answered
    with the target; ``near``, ``far`` and ``locality`` (both): locality prompts with the answer of
    the base; ``portability``: portability prompts with the right answer; ``old_answers``: prompts
    and rephrases still answered with ``ground_truth``; ``identical``: locality prompts with the
    logits of the base, bit for bit. ``opened_in_scope``: prompts and rephrases that their fact
    claims (any edit, if decisions name no facts); ``opened_out_of_scope``: locality prompts that
    any edit claims; both have n = 0 if edits are always on. ``retention``: reliability by the age
    of edits.
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
    """Score ``facts``, in the order of editing, on ``base`` with edits attached by ``attach``.

    Locality compares with the answers of the base, which are taken here without edits.
    ``on_stage`` is called with the name of each stage.

    Raises:
        PromptTooLong: a prompt leaves no room for an answer.
        EditorError: a prompt cannot be encoded.
    """
    prompts = _Prompts(facts)
    tokens = _max_new_tokens(base, facts)
    unedited = EditedModel.unedited(base)
    on_stage("base answers")
    before = dict(zip(prompts.local, answers(unedited, prompts.local, tokens), strict=True))
    before_digests = digests(unedited, prompts.local)
    local_pairs = [(prompt, answer.text) for prompt, answer in before.items() if answer.text]
    before_forced = _argmax_ids(unedited, local_pairs) if teacher_forced else []
    with attach() as edited:
        on_stage("edited answers")
        after = dict(zip(prompts.all, answers(edited, prompts.all, tokens), strict=True))
        on_stage("logits")
        identical = map(bytes.__eq__, before_digests, digests(edited, prompts.local))
        forced_scores = None
        if teacher_forced:
            on_stage("teacher-forced")
            forced_scores = _teacher_forced(edited, facts, local_pairs, before_forced)
        same = Rate.of_all(identical)
    unchanged = {prompt: _same(after[prompt], before[prompt]) for prompt in prompts.local}
    scored = [_of_fact(fact, after, unchanged) for fact in facts]
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
            (after[prompt].decision or UNCLAIMED).opened for prompt in prompts.local if routed
        ),
        retention=tuple(retention([float(s.reliable) for s in scored])),
        teacher_forced=forced_scores,
        per_fact=tuple(scored),
    )


class _Prompts:
    """The prompts of some facts, each once. ``local``: locality prompts; ``all``: all prompts."""

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


def _of_fact(
    fact: Fact, answers_by_prompt: Mapping[str, Answer], unchanged: Mapping[str, bool]
) -> FactScore:
    return FactScore(
        fact.id,
        answers_by_prompt[fact.prompt].text,
        is_right(answers_by_prompt[fact.prompt], fact.target),
        tuple(is_right(answers_by_prompt[prompt], fact.target) for prompt in fact.rephrases),
        tuple(unchanged[probe.prompt] for probe in fact.locality if probe.kind == "near"),
        tuple(unchanged[probe.prompt] for probe in fact.locality if probe.kind == "far"),
    )


def _max_new_tokens(base: Base, facts: Sequence[Fact]) -> int:
    """The most tokens of an answer: as many as the longest expected answer has, and a few more."""
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
    """The shares of gold tokens that are the likeliest. ``before``: for ``local_pairs``, the
    likeliest tokens of the base."""

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
    return encode_pairs(base.tokenizer, pairs, stop=False, context=base.architecture.context)


@torch.inference_mode()
def _argmax_ids(model: EditedModel, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
    """For each prompt and answer, the likeliest ids at the positions of the answer. Only the prompt
    decides which edit answers."""
    base = model.base
    rewritten = model.rewritten([prompt for prompt, _ in pairs])
    texts = [cast(str, prompt) for prompt, _ in rewritten]  # the rewritten form of a text is a text
    rows = _rows(base, [(text, answer) for text, (_, answer) in zip(texts, pairs, strict=True)])
    ids_by_row: dict[int, list[int]] = {}
    budget = Budget(logits_per_token=base.vocabulary)
    for members in batches([len(row.ids) for row in rows], budget):
        batch = base.batch([rows[i] for i in members])
        with model.scoring(batch.prompt_lengths):
            logits = base.model(
                input_ids=batch.ids, attention_mask=batch.mask, use_cache=False
            ).logits
        guesses = logits[:, :-1].argmax(-1)
        wanted = batch.labels()[:, 1:] != IGNORED
        for i, row_guesses, wanted_tokens in zip(members, guesses, wanted, strict=True):
            ids_by_row[i] = row_guesses[wanted_tokens].tolist()
    return [ids_by_row[i] for i in range(len(rows))]
