"""Which heads carry memory's answer, and which the passage's: ranked by path patching.

Three scores for each head (PH3, arXiv 2402.18154, as section 1.8 of its re-implementations has
them): how much the memory answer loses when the head is patched, how much the context answer does,
and how much the difference of the two. A run is corrupted by another subject, or by another answer
in the passage, so that only the stream in question is missing from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from random import Random
from typing import Literal

import torch

from editors.conflicts.cases import Asked, Outcome, first_token, next_probabilities
from editors.conflicts.cases import outcome_of_token as outcome_by
from editors.errors import EditorError
from editors.heads.head_mask import Head
from editors.heads.path_patching import Unit, direct_effects, path_effects
from editors.inference.attach import Attached
from editors.model.base_model import Base
from editors.model.tokenization import Row, encode_prompt

Score = Literal["memory", "context", "joint"]
Corruption = Literal["each", "both"]
Mlps = Literal["recomputed", "frozen"]

TOP = 10  # of a ranking, whose stability is told
RESAMPLES = 200
TOKENS_AT_ONCE = 2048  # in one forward over prompts


@dataclass(frozen=True, slots=True)
class LocateSettings:
    """How heads are ranked; part of what a ranking is recorded with.

    ``corruption``: "each" takes another subject in the question for the memory score, another
    answer in the passage for the context score, and both for the joint one; "both" always both.
    ``mlps``: recomputed (path patching as published) or frozen (direct logit attribution).
    ``unit``: query heads, or the query heads of a key-value head together.
    """

    corruption: Corruption = "each"
    mlps: Mlps = "recomputed"
    unit: Unit = "head"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Ranking:
    """Effects of each head, row by row, float32 ``[layers, units, rows]``, in logits.

    ``memory``: on the memory answer, over rows answered from memory; ``context``: on the context
    answer, over rows answered from the passage; ``joint``: on their difference, over both.
    ``collided``: rows left out because both answers begin with one token.
    """

    memory: torch.Tensor
    context: torch.Tensor
    joint: torch.Tensor
    collided: int
    settings: LocateSettings

    def of(self, score: Score) -> torch.Tensor:
        """``[layers, units, rows]``"""
        effects: torch.Tensor = getattr(self, score)
        return effects

    def mean(self, score: Score) -> torch.Tensor:
        """``[layers, units]``: the score of each head."""
        return self.of(score).mean(-1)

    def top(self, score: Score, count: int) -> list[Head]:
        """The ``count`` heads with the largest score above 0, best first."""
        return _top(self.mean(score), count)

    def stable(self, score: Score, count: int = TOP) -> torch.Tensor:
        """``[layers, units]``: the share of bootstrap resamples of rows with a head in the top."""
        effects = self.of(score)
        generator = torch.Generator().manual_seed(self.settings.seed)
        rows = effects.shape[-1]
        counted = torch.zeros(effects.shape[:2])
        for _ in range(RESAMPLES):
            drawn = torch.randint(rows, (rows,), generator=generator)
            for head in _top(effects[..., drawn].mean(-1), count):
                counted[head] += 1
        return counted / RESAMPLES


def _top(scores: torch.Tensor, count: int) -> list[Head]:
    width = scores.shape[1]
    order = scores.flatten().argsort(descending=True, stable=True)[:count].tolist()
    return [Head(i // width, i % width) for i in order if scores.flatten()[i] > 0]


def locate(
    base: Base,
    asked: Sequence[Asked],
    settings: LocateSettings,
    edited: Attached | None = None,
    on_row: Callable[[int], None] = lambda _: None,
) -> Ranking:
    """Rank the heads of the base, with whatever is attached to it, on conflicting rows.

    ``edited``: the edits that are attached; ``on_row`` is told of rows that are done.

    Raises:
        EditorError: no row shows a conflict, all ask one question, every row's answers begin with
            one token, or the model answers all of the rows from one source, so that the heads of
            the other cannot be seen.
        UnsupportedArchitecture: the model has no separable heads.
    """
    rows = [a for a in asked if a.conflicting]
    if not rows:
        raise EditorError("no row shows a conflict", "rows of kind substitution or coherent do")
    if len({a.row.question for a in rows}) < 2:
        raise EditorError(
            f"all rows ask {rows[0].row.question!r}, so there is no other subject to corrupt with",
            "add rows that ask something else",
        )
    tokens = [_tokens(base, a) for a in rows]
    apart = [i for i, (memory, context) in enumerate(tokens) if memory != context]
    if not apart:
        raise EditorError(
            f"the memory and the context answer begin with the same token in all {len(rows)} rows",
            "logits of first tokens cannot tell them apart; use answers that begin differently",
        )
    by_memory, by_context = _sources(base, [rows[i] for i in apart])
    memory_rows = [apart[i] for i in by_memory]
    context_rows = [apart[i] for i in by_context]
    if not memory_rows or not context_rows:
        every = "from the passage" if context_rows else "from memory"
        if not memory_rows and not context_rows:
            every = "neither from memory nor from the passage"
        raise EditorError(
            f"the model answers all {len(apart)} rows {every}, so no row shows a conflict won by "
            "the other side",
            "mix rows: vary how sure the passage sounds, how often it repeats its claim, and how "
            "far it is from the question (20-80 % of either is best)",
        )
    rng = Random(settings.seed)
    twins = [_Twin.of(a, rows, rng) for a in rows]
    both = settings.corruption == "both"

    def effects(chosen: Sequence[int], corrupted: Callable[[_Twin], str]) -> torch.Tensor:
        return _effects(
            base,
            [rows[i].row.prompt for i in chosen],
            [corrupted(twins[i]) for i in chosen],
            [tokens[i] for i in chosen],
            settings,
            edited,
            on_row,
        )

    memory = effects(memory_rows, lambda t: t.both if both else t.question)[..., 0]
    context = effects(context_rows, lambda t: t.both if both else t.context)[..., 1]
    joint = effects(sorted(memory_rows + context_rows), lambda t: t.both)
    difference = joint[..., 0] - joint[..., 1]
    return Ranking(memory, context, difference, len(rows) - len(apart), settings)


@dataclass(frozen=True, slots=True)
class _Twin:
    """The corrupted prompts of a row: another question, another passage, or both."""

    question: str
    context: str
    both: str

    @staticmethod
    def of(asked: Asked, others: Sequence[Asked], rng: Random) -> _Twin:
        """With the subject and the answer of other rows, of the same relation where there are."""
        row = asked.row
        pool = [a.row for a in others if a.row.question != row.question]
        near = [other for other in pool if other.relation == row.relation] or pool
        subjects = [o.subject for o in near if o.subject and o.subject != row.subject]
        if row.subject and subjects:
            subject = rng.choice(subjects)
            question = row.question.replace(row.subject, subject)
            about = row.context.replace(row.subject, subject)
        else:
            question, about = rng.choice(near).question, row.context
        neither = (row.context_answer, asked.memory)
        answers = [o.context_answer for o in near if o.context_answer not in neither]
        if answers and row.context_answer in row.context:
            answer = rng.choice(answers)
            context = row.context.replace(row.context_answer, answer)
            about = about.replace(row.context_answer, answer)
        else:
            context = about = rng.choice(near).context
        return _Twin(
            f"{row.context} {question}", f"{context} {row.question}", f"{about} {question}"
        )


def _tokens(base: Base, asked: Asked) -> tuple[int, int]:
    """The first tokens of the memory and of the context answer."""
    prompt = asked.row.prompt
    return (
        first_token(base, prompt, asked.memory),
        first_token(base, prompt, asked.row.context_answer),
    )


def _sources(base: Base, rows: Sequence[Asked]) -> tuple[list[int], list[int]]:
    """The rows answered from memory, and those answered from the passage, by first tokens."""
    guessed = next_probabilities(base, [a.row.prompt for a in rows]).argmax(-1).tolist()
    outcomes: list[Outcome] = [
        outcome_by(base, a, token) for a, token in zip(rows, guessed, strict=True)
    ]
    return (
        [i for i, outcome in enumerate(outcomes) if outcome == "memory"],
        [i for i, outcome in enumerate(outcomes) if outcome == "context"],
    )


def _effects(
    base: Base,
    prompts: Sequence[str],
    corrupted: Sequence[str],
    tokens: Sequence[tuple[int, int]],
    settings: LocateSettings,
    edited: Attached | None,
    on_row: Callable[[int], None],
) -> torch.Tensor:
    """float32 ``[layers, units, rows, 2]``, in the order of ``prompts``."""
    held = edited.held if edited else nullcontext
    encoded = [
        tuple(encode_prompt(base.tokenizer, text) for text in pair)
        for pair in zip(prompts, corrupted, strict=True)
    ]
    longest = [max(len(ids) for ids in pair) for pair in encoded]
    order = sorted(range(len(prompts)), key=longest.__getitem__)
    found: list[torch.Tensor] = []
    start = 0
    while start < len(order):
        size = 1
        while (
            start + size < len(order)
            and (size + 1) * longest[order[start + size]] <= TOKENS_AT_ONCE
        ):
            size += 1
        part = order[start : start + size]
        original, other = (
            base.batch([Row(encoded[i][side], len(encoded[i][side])) for i in part])
            for side in (0, 1)
        )
        asked = torch.tensor([tokens[i] for i in part])
        if settings.mlps == "frozen":
            effects = direct_effects(base, original, other, asked, settings.unit)
        else:
            effects = path_effects(base, original, other, asked, settings.unit, held)
        found.append(effects.float())
        on_row(size)
        start += size
    back = torch.tensor(order).argsort()
    return torch.cat(found, 2)[:, :, back]
