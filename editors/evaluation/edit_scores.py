"""Scores of a set of edits: reliability, generalization, locality, portability, and decisions.

The main scores are of free-running answers, in each of the :mod:`~editors.evaluation.readings`.
The teacher-forced scores are for comparison with papers: the model is given the tokens of the
target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from editors.evaluation.metrics import AgeBand, Rate, retention
from editors.evaluation.readings import READINGS, Reading
from editors.facts import NEAR_KINDS, Fact, NearKind
from editors.inference.batching import Budget, in_batches
from editors.inference.edited_model import EditedModel
from editors.inference.generation import Answer, answers
from editors.inference.next_tokens import digests
from editors.model.base_model import Base
from editors.model.tokenization import Ids, Prompt, Wrap, answer_limit, encode_pairs
from editors.text_matching import normalised

Attach = Callable[[], AbstractContextManager[EditedModel]]

SENTENCE_TOKENS = 32
"""What an answer in a sentence may have more than the answer alone. Of SmolLM2-135M-Instruct, nine
of ten first sentences end within 48 tokens, in chats and in plain text, and half within 26."""


@dataclass(frozen=True, slots=True)
class FactScore:
    """The scores of one fact. ``answer``: to the edited prompt; ``reliable``: it gives the target;
    ``rephrases``, ``near``, ``far``: for each prompt, whether the answer is as it should be."""

    id: str
    answer: str
    reliable: bool
    rephrases: tuple[bool, ...]
    near: tuple[bool, ...]
    far: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class TargetScores:
    """How often answers give the target in one reading. ``reliability``: to the edited prompts;
    ``generalization``: to rephrases."""

    reliability: Rate
    generalization: Rate


@dataclass(frozen=True, slots=True)
class TeacherForced:
    """Teacher-forced token accuracy, as in papers: the likeliest tokens are compared, with the gold
    tokens as input."""

    reliability: Rate
    generalization: Rate
    locality: Rate


@dataclass(frozen=True, slots=True)
class EditScores:
    """All scores of some facts, each with its n and interval.

    ``readings``: of each reading, how often answers give the target. ``headline``: the reading that
    counts in ``reliability``, ``generalization`` and all other scores of whether an answer is
    right. ``near``, ``far`` and ``locality`` (both): locality prompts with the answer of the base;
    ``kinds``: those of ``near`` that say how they are near; ``portability``: portability prompts
    with the right answer; ``old_answers``: prompts and rephrases still answered with
    ``ground_truth``; ``identical``: locality prompts with the logits of the base, bit for bit.
    ``opened_in_scope``: prompts and rephrases that their fact claims (any edit, if decisions name
    no facts); ``opened_out_of_scope``: locality prompts that any edit claims; both have n = 0 if
    edits are always on. ``retention``: reliability by the age of edits.
    """

    headline: Reading
    readings: Mapping[Reading, TargetScores]
    near: Rate
    far: Rate
    locality: Rate
    kinds: Mapping[NearKind, Rate]
    portability: Rate
    old_answers: Rate
    identical: Rate
    opened_in_scope: Rate
    opened_out_of_scope: Rate
    retention: tuple[AgeBand, ...]
    teacher_forced: TeacherForced | None
    per_fact: tuple[FactScore, ...]

    @property
    def reliability(self) -> Rate:
        """The share of edited prompts whose answers give the target."""
        return self.readings[self.headline].reliability

    @property
    def generalization(self) -> Rate:
        """The share of rephrases whose answers give the target."""
        return self.readings[self.headline].generalization


def score_edits(
    base: Base,
    attach: Attach,
    facts: Sequence[Fact],
    *,
    asked_as: Wrap = str,
    headline: Reading = "starts",
    teacher_forced: bool = True,
    on_stage: Callable[[str], None] = lambda _: None,
) -> EditScores:
    """Score ``facts``, in the order of editing, on ``base`` with edits attached by ``attach``.

    ``asked_as``: the form that every prompt is asked in; by default the prompt as it is.
    ``headline``: the reading that decides whether an answer is right. Locality compares whole
    answers with those of the base, which are taken here without edits and in the same form.
    ``on_stage`` is called with the name of each stage.

    Raises:
        PromptTooLong: a prompt leaves no room for an answer.
        EditorError: a prompt cannot be encoded.
    """
    in_scope = [(fact, prompt) for fact in facts for prompt in (fact.prompt, *fact.rephrases)]
    portable = [probe for fact in facts for probe in fact.portability]
    local_probes = [probe for fact in facts for probe in fact.locality]
    local = list(dict.fromkeys(probe.prompt for probe in local_probes))
    targeted = [*(prompt for _, prompt in in_scope), *(probe.prompt for probe in portable)]
    targeted = list(dict.fromkeys(targeted))
    expected = [text for fact in facts for text in (fact.target, fact.ground_truth)]
    expected += [probe.answer for probe in (*local_probes, *portable)]
    tokens = answer_limit(base.tokenizer, expected)
    unedited = EditedModel.unedited(base)
    on_stage("base answers")
    asked_local = [*map(asked_as, local)]
    before = dict(zip(local, answers(unedited, asked_local, tokens), strict=True))
    before_digests = digests(unedited, asked_local)
    local_pairs = [(asked_as(text), answer.text) for text, answer in before.items() if answer.text]
    before_forced = _likeliest(unedited, local_pairs)[0] if teacher_forced else []
    forced_scores = None
    with attach() as edited:
        on_stage("edited answers")
        # Both sides of a comparison have the same limit; a target may come late in a sentence.
        local_after = dict(zip(local, answers(edited, asked_local, tokens), strict=True))
        given = answers(edited, [*map(asked_as, targeted)], tokens + SENTENCE_TOKENS)
        after = dict(zip(targeted, given, strict=True))
        on_stage("logits")
        identical = Rate.of(map(bytes.__eq__, before_digests, digests(edited, asked_local)))
        if teacher_forced:
            on_stage("teacher-forced")
            edited_pairs = [(asked_as(fact.prompt), fact.target) for fact in facts]
            rephrased = [(asked_as(text), f.target) for f in facts for text in f.rephrases]
            forced_scores = TeacherForced(
                _share_equal(*_likeliest(edited, edited_pairs)),
                _share_equal(*_likeliest(edited, rephrased)),
                _share_equal(_likeliest(edited, local_pairs)[0], before_forced),
            )
    unchanged = {prompt: _same(local_after[prompt], answer) for prompt, answer in before.items()}

    def gives_target(reading: Reading, fact: Fact, prompt: str) -> bool:
        return READINGS[reading](after[prompt], fact.target, fact.ground_truth)

    gives = READINGS[headline]
    scored = [
        FactScore(
            fact.id,
            after[fact.prompt].text,
            gives_target(headline, fact, fact.prompt),
            tuple(gives_target(headline, fact, prompt) for prompt in fact.rephrases),
            tuple(unchanged[probe.prompt] for probe in fact.locality if probe.near),
            tuple(unchanged[probe.prompt] for probe in fact.locality if not probe.near),
        )
        for fact in facts
    ]
    by_prompt = {**local_after, **after}
    decisions = {prompt: answer.decision for prompt, answer in by_prompt.items() if answer.decision}
    return EditScores(
        headline=headline,
        readings={
            reading: TargetScores(
                Rate.of(gives_target(reading, fact, fact.prompt) for fact in facts),
                Rate.of(gives_target(reading, f, prompt) for f in facts for prompt in f.rephrases),
            )
            for reading in READINGS
        },
        near=Rate.of(ok for s in scored for ok in s.near),
        far=Rate.of(ok for s in scored for ok in s.far),
        locality=Rate.of(ok for s in scored for ok in (*s.near, *s.far)),
        kinds={
            kind: Rate.of(unchanged[p.prompt] for p in local_probes if p.kind == kind)
            for kind in NEAR_KINDS
        },
        portability=Rate.of(gives(after[p.prompt], p.answer, None) for p in portable if p.answer),
        old_answers=Rate.of(
            gives(after[prompt], fact.ground_truth, fact.target)
            for fact, prompt in in_scope
            if fact.ground_truth is not None
        ),
        identical=identical,
        opened_in_scope=Rate.of(
            decisions[prompt].opened and decisions[prompt].fact in (None, fact.id)
            for fact, prompt in in_scope
            if prompt in decisions
        ),
        opened_out_of_scope=Rate.of(decisions[p].opened for p in local if p in decisions),
        retention=tuple(retention([s.reliable for s in scored])),
        teacher_forced=forced_scores,
        per_fact=tuple(scored),
    )


def _same(answer: Answer, before: Answer) -> bool:
    return answer.stopped == before.stopped and normalised(answer.text) == normalised(before.text)


# --- teacher forcing ------------------------------------------------------------------------------


def _share_equal(guesses: Sequence[Ids], gold: Sequence[Ids]) -> Rate:
    """The mean share of the ids of an answer that are equal in ``guesses`` and ``gold``."""
    return Rate.of(
        sum(a == b for a, b in zip(guess, right, strict=True)) / len(right)
        for guess, right in zip(guesses, gold, strict=True)
    )


@torch.inference_mode()
def _likeliest(
    model: EditedModel, pairs: Sequence[tuple[Prompt, str]]
) -> tuple[list[Ids], list[Ids]]:
    """For each prompt and answer: the likeliest ids at the positions of the answer; the ids of the
    answer. Only the prompt decides which edit answers."""
    base = model.base
    rewritten = model.rewritten([prompt for prompt, _ in pairs])
    answered = [(prompt, answer) for (prompt, _), (_, answer) in zip(rewritten, pairs, strict=True)]
    rows = encode_pairs(base.tokenizer, answered, stop=False, context=base.architecture.context)

    def run(members: list[int]) -> list[Ids]:
        batch = base.batch([rows[i] for i in members])
        with model.scoring(batch.prompt_lengths):
            out = base.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
        return [
            tuple(guesses[rows[i].prompt_length - 1 : len(rows[i].ids) - 1])
            for i, guesses in zip(members, out.logits.argmax(-1).tolist(), strict=True)
        ]

    budget = Budget(logits_per_token=base.vocabulary)
    likeliest = in_batches([len(row.ids) for row in rows], budget, run)
    return likeliest, [row.ids[row.prompt_length :] for row in rows]
