"""Ranks heads by how much they contribute to the answer of memory or of the passage.

Heads are ranked by path patching, with three scores for each head (PH3, arXiv 2402.18154): the loss
of the logit of the memory answer when the head is patched, the loss of the context answer, and the
loss of their difference. A run is corrupted by another subject in the question, or by another
answer in the passage, so that only the information of one source is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

import torch

from editors.conflicts.cases import ConflictCase
from editors.conflicts.measure import candidate_tokens, first_outcomes, first_tokens
from editors.errors import EditorError
from editors.heads.logit_attribution import direct_effects
from editors.heads.path_patching import Unit, no_effects, path_effects
from editors.heads.pruning import Head
from editors.inference.batching import Budget, batches
from editors.inference.edited_model import EditedModel
from editors.model.tokenization import Row, encode_prompts
from editors.text_matching import replace_words

Score = Literal["memory", "context", "joint"]

TOP = 10  # heads of a ranking whose stability is reported
RESAMPLES = 200
TOKENS_AT_ONCE = 1024  # of a forward over prompts, pads included
SCORES: tuple[Score, ...] = ("memory", "context", "joint")


@dataclass(frozen=True, slots=True)
class LocateSettings:
    """How heads are ranked.

    ``corruption``: "each" corrupts the question for the memory score, the passage for the context
    score, and both for the joint score; "both" corrupts both for all scores. ``mlps``: "recomputed"
    (path patching as published) or "frozen" (direct logit attribution). ``unit``: query heads, or
    all query heads of a key-value head together. ``seed``: of corruptions and resamples.
    """

    corruption: Literal["each", "both"] = "each"
    mlps: Literal["recomputed", "frozen"] = "recomputed"
    unit: Unit = "head"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Ranking:
    """The effects of each head in each row: float32 ``[layers, units, rows]``, in logits.

    ``memory``: on the memory answer, in rows answered from memory; ``context``: on the context
    answer, in rows answered from the passage; ``joint``: on their difference, in the rows of both.
    Each may have no rows, if it was not asked for. ``collided``: the number of rows that were left
    out because both answers begin with the same token.
    """

    memory: torch.Tensor
    context: torch.Tensor
    joint: torch.Tensor
    collided: int
    settings: LocateSettings

    def of(self, score: Score) -> torch.Tensor:
        """``[layers, units, rows]``: the effects behind ``score``."""
        effects: torch.Tensor = getattr(self, score)
        return effects

    def mean(self, score: Score) -> torch.Tensor:
        """``[layers, units]``: the score of each head, its mean effect; NaN without rows."""
        return self.of(score).mean(-1)

    def top(self, score: Score, count: int | None = None) -> list[Head]:
        """The ``count`` heads (None: all) with the largest scores above 0, best first; fewer if
        there are no more."""
        return _top(self.mean(score), count)

    def stable(self, score: Score, count: int = TOP) -> torch.Tensor:
        """``[layers, units]``: the share of bootstrap resamples of rows in which each head is among
        the ``count`` best."""
        effects = self.of(score)
        generator = torch.Generator().manual_seed(self.settings.seed)
        rows = effects.shape[-1]
        counted = torch.zeros(effects.shape[:2])
        for _ in range(RESAMPLES):
            drawn = torch.randint(rows, (rows,), generator=generator)
            for head in _top(effects[..., drawn].mean(-1), count):
                counted[head] += 1
        return counted / RESAMPLES


def _top(scores: torch.Tensor, count: int | None) -> list[Head]:
    values, order = scores.flatten().sort(descending=True, stable=True)
    best = order[:count][values[:count] > 0]
    return [Head(*divmod(number, scores.shape[1])) for number in best.tolist()]


def locate(
    model: EditedModel,
    cases: Sequence[ConflictCase],
    settings: LocateSettings,
    on_row: Callable[[int], None] = lambda _: None,
    *,
    scores: Sequence[Score] = SCORES,
    at_most: int | None = None,
) -> Ranking:
    """Rank the heads of a base, with everything that is attached to it, on conflicting rows.

    ``on_row`` is called with the number of further rows that are done. ``scores``: those that are
    wanted. ``at_most``: so many rows of each source, drawn at random; None: all rows.

    Raises:
        EditorError: no row has a conflict, all rows ask the same question, both answers begin with
            the same token in every row, or the model answers no row from memory or none from the
            passage.
        UnsupportedArchitecture: the model has no separable heads.
    """
    rows = [case for case in cases if case.conflicting]
    tokens = _first_tokens(model, rows)
    apart = [i for i, (memory, context) in enumerate(tokens) if memory != context]
    rng = Random(settings.seed)
    memory_rows, context_rows = (
        _sample(numbers, at_most, settings.seed) for numbers in _by_source(model, rows, apart)
    )
    corrupted = [_corrupted(case, rows, rng) for case in rows]

    def effects(score: Score, numbers: Sequence[int]) -> torch.Tensor:
        """``[layers, units, rows, 2]``: the effects on both answers, in the order of
        ``numbers``."""
        if score not in scores:
            return no_effects(model.base, torch.zeros(0, 2), settings.unit)
        source: Score = "joint" if settings.corruption == "both" else score
        prompts = [(rows[i].row.prompt, corrupted[i][source]) for i in numbers]
        return _effects(model, prompts, [tokens[i] for i in numbers], settings, on_row)

    memory = effects("memory", memory_rows)[..., 0]
    context = effects("context", context_rows)[..., 1]
    joint = effects("joint", sorted(memory_rows + context_rows))
    difference = joint[..., 0] - joint[..., 1]
    return Ranking(memory, context, difference, len(rows) - len(apart), settings)


def _sample(numbers: list[int], count: int | None, seed: int) -> list[int]:
    """``count`` of the ``numbers``, in order; all of them if there are no more, or for None."""
    if count is None or len(numbers) <= count:
        return numbers
    return sorted(Random(seed).sample(numbers, count))


def _first_tokens(model: EditedModel, rows: Sequence[ConflictCase]) -> list[tuple[int, int]]:
    """For each row, the first tokens of the memory answer and the context answer.

    Raises EditorError for rows that cannot be ranked.
    """
    if not rows:
        raise EditorError("no row shows a conflict", "rows of kind substitution or coherent do")
    if len({case.row.question for case in rows}) < 2:
        raise EditorError(
            f"all rows ask {rows[0].row.question!r}, so there is no other subject to corrupt with",
            "add rows that ask something else",
        )
    memory = first_tokens(model.base, [(c.row.prompt, c.memory) for c in rows])
    context = first_tokens(model.base, [(c.row.prompt, c.row.context_answer) for c in rows])
    if memory == context:
        raise EditorError(
            f"the memory and the context answer begin with the same token in all {len(rows)} rows",
            "logits of first tokens cannot tell them apart; use answers that begin differently",
        )
    return list(zip(memory, context, strict=True))


def _by_source(
    model: EditedModel, rows: Sequence[ConflictCase], apart: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Of the rows ``apart`` (numbers), those answered from memory and those answered from the
    passage, by first tokens. Raises EditorError if there are none of one kind."""
    cases = [rows[i] for i in apart]
    outcomes = first_outcomes(model, cases, candidate_tokens(model.base, cases))
    memory, context = (
        [i for i, outcome in zip(apart, outcomes, strict=True) if outcome == source]
        for source in ("memory", "context")
    )
    if not memory or not context:
        every = "from the passage" if context else "from memory"
        if not memory and not context:
            every = "neither from memory nor from the passage"
        raise EditorError(
            f"the model answers all {len(apart)} rows {every}, so no row shows a conflict won by "
            "the other side",
            "mix rows: vary how sure the passage sounds, how often it repeats its claim, and how "
            "far it is from the question (20-80 % of either is best)",
        )
    return memory, context


def _corrupted(case: ConflictCase, others: Sequence[ConflictCase], rng: Random) -> dict[Score, str]:
    """By score, the corrupted prompt of ``case``: with another question, another passage, or both.

    Subject and answer are those of another row, if possible of the same relation.
    """
    row = case.row
    pool = [other.row for other in others if other.row.question != row.question]
    donors = [other for other in pool if other.relation == row.relation] or pool
    subjects = [o.subject for o in donors if o.subject and o.subject != row.subject]
    question, both_context = row.question, row.context
    if row.subject and subjects:
        subject = rng.choice(subjects)
        question = replace_words(row.question, row.subject, subject)
        both_context = replace_words(row.context, row.subject, subject)
    if question == row.question:
        question, both_context = rng.choice(donors).question, row.context
    neither = (row.context_answer, case.memory)
    answers = [o.context_answer for o in donors if o.context_answer not in neither]
    context = row.context
    if answers:
        answer = rng.choice(answers)
        context = replace_words(row.context, row.context_answer, answer)
        both_context = replace_words(both_context, row.context_answer, answer)
    if context == row.context:
        context = both_context = rng.choice(donors).context
    return {
        "memory": f"{row.context} {question}",
        "context": f"{context} {row.question}",
        "joint": f"{both_context} {question}",
    }


def _effects(
    model: EditedModel,
    prompts: Sequence[tuple[str, str]],
    tokens: Sequence[tuple[int, int]],
    settings: LocateSettings,
    on_row: Callable[[int], None],
) -> torch.Tensor:
    """``[layers, units, rows, 2]``: the effects on both ``tokens`` of each row, in the order of
    ``prompts``, each a prompt and its corruption."""
    base = model.base
    effects_of = direct_effects if settings.mlps == "frozen" else path_effects
    both = [
        encode_prompts(base.tokenizer, [prompt for prompt, _ in model.rewritten(texts)])
        for texts in zip(*prompts, strict=True)
    ]
    longer = [max(map(len, pair)) for pair in zip(*both, strict=True)]
    effects: list[torch.Tensor] = []
    order: list[int] = []
    for members in batches(longer, Budget(tokens=TOKENS_AT_ONCE)):
        original, corrupted = (base.batch([Row.of_prompt(ids[i]) for i in members]) for ids in both)
        answer_tokens = torch.tensor([tokens[i] for i in members])
        effects.append(effects_of(model, original, corrupted, answer_tokens, settings.unit))
        order += members
        on_row(len(members))
    return torch.cat(effects, 2)[:, :, torch.tensor(order).argsort()]
