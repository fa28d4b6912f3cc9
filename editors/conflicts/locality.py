"""Checks of everything that pruning heads must not spoil, and how much each check may lose."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

import torch
from torch.nn.functional import cross_entropy

from editors.conflicts.cases import ConflictCase
from editors.conflicts.measure import first_tokens
from editors.conflicts.replies import Replies
from editors.errors import EditorError
from editors.facts import Fact
from editors.inference.batching import LOGITS_AT_ONCE, Budget, batches
from editors.inference.edited_model import EditedModel
from editors.inference.next_tokens import PADS, distributions, likeliest
from editors.model.base_model import Base
from editors.model.tokenization import IGNORED, Row, encode_prompt, encode_prompts
from editors.text_matching import replace_words

LIMITS: Mapping[str, float] = {
    "neutral": 0.02,  # nats a token
    "facts": 0.02,
    "gold": 0.01,
    "irrelevant": 0.02,
    "edited": 0.01,
    "rephrased": 0.01,
    "near": 0.01,
    "copying": 0.02,
    "other": 0.05,
}
"""The limit of each check: how much worse its score may become. Scores are shares, except for
``neutral``, which is a loss."""

COPIED_TOKENS = 12  # random tokens of a sequence, which are then repeated
COPIES = 64  # such sequences
PROMPT_SHARE = 0.6  # the share of a neutral text after which next tokens are compared

T = TypeVar("T")

Pair = tuple[str, str]
"""A prompt and its expected answer."""

Judge = Callable[[EditedModel, Sequence[Pair]], list[bool]]
"""For each pair, whether the prompt has the expected answer."""


def by_first_token(model: EditedModel, pairs: Sequence[Pair]) -> list[bool]:
    """A :data:`Judge` by the likeliest first token. It takes one forward, so that many sets of
    heads can be compared."""
    likely = likeliest(model, [prompt for prompt, _ in pairs])
    wanted = first_tokens(model.base, pairs)
    return [token == first for token, first in zip(likely, wanted, strict=True)]


def by_answer(
    model: EditedModel, pairs: Sequence[Pair], replies: Replies | None = None
) -> list[bool]:
    """A :data:`Judge` by free-running greedy answers. ``replies``: those of ``model``, to be shared
    with other measurements."""
    replies = replies or Replies(model, [wanted for _, wanted in pairs])
    given = replies.ask([prompt for prompt, _ in pairs])
    return [
        reply.outcome({"memory": wanted}) == "memory"
        for reply, (_, wanted) in zip(given, pairs, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Battery:
    """The checks of locality. ``pairs``: by check, prompts with their expected answers;
    ``neutral``: texts; ``copies``: the number of random texts that are to be copied."""

    pairs: Mapping[str, Sequence[Pair]] = field(default_factory=dict)
    neutral: Sequence[str] = ()
    copies: int = COPIES

    @staticmethod
    def of(cases: Sequence[ConflictCase], edits: Sequence[Fact], neutral: Sequence[str]) -> Battery:
        """The checks for these cases and ``edits``, the facts in force.

        If no row is of kind gold, such rows are made from conflicting rows: the memory answer
        replaces the context answer in the passage. If no row is of kind irrelevant, conflicting
        rows get the passage of another relation.
        """
        plain = [case for case in cases if case.fact is None]
        conflicting = [case for case in plain if case.conflicting]

        def of_kind(kind: str) -> list[Pair]:
            return [(case.row.prompt, case.memory) for case in plain if case.row.kind == kind]

        pairs = {
            "facts": list(dict.fromkeys((case.row.question, case.memory) for case in plain)),
            "gold": of_kind("gold") or _made_gold(conflicting),
            "irrelevant": of_kind("irrelevant") or _made_irrelevant(conflicting),
            "edited": [(fact.prompt, fact.target) for fact in edits],
            "rephrased": [(p, fact.target) for fact in edits for p in fact.rephrases],
            "near": [
                (probe.prompt, probe.answer)
                for fact in edits
                for probe in fact.locality
                if probe.near and probe.answer is not None
            ],
        }
        return Battery({name: checks for name, checks in pairs.items() if checks}, neutral)

    def sample(self, count: int) -> Battery:
        """At most ``count`` pairs of each check, drawn at random, and at most as many texts."""
        pairs = {name: drawn(pairs, count) for name, pairs in self.pairs.items()}
        return Battery(pairs, self.neutral[:count], min(self.copies, count))

    @property
    def checks(self) -> tuple[str, ...]:
        """The names of all checks. Those that run few tokens, as ``facts``, come first."""
        return (*self.pairs, "copying", *(["neutral"] if self.neutral else []))

    @property
    def prompts(self) -> list[str]:
        """All prompts with an expected answer."""
        return [prompt for pairs in self.pairs.values() for prompt, _ in pairs]

    @property
    def expected(self) -> list[str]:
        """All expected answers."""
        return [wanted for pairs in self.pairs.values() for _, wanted in pairs]

    def scores(self, model: EditedModel, judge: Judge) -> dict[str, float]:
        """The :meth:`score` of each check; prompts of all checks are judged together."""
        flat = [pair for pairs in self.pairs.values() for pair in pairs]
        outcomes = iter(judge(model, flat))
        scores = {name: _share([next(outcomes) for _ in self.pairs[name]]) for name in self.pairs}
        rest = [check for check in self.checks if check not in self.pairs]
        return {**scores, **{check: self.score(check, model, judge) for check in rest}}

    def score(self, check: str, model: EditedModel, judge: Judge) -> float:
        """The score of one of :attr:`checks`: the share of expected answers, and for ``neutral``
        the loss in nats per token.

        The first token of a neutral text counts as its prompt. So heads that are pruned from the
        end of prompts on are pruned in the whole text.
        """
        if check == "copying":
            return copying(model, self.copies)
        if check == "neutral":
            return neutral_loss(model, self.neutral)
        return _share(judge(model, self.pairs[check]))


def drawn(items: Sequence[T], count: int) -> Sequence[T]:
    """``count`` of ``items``, drawn at random and in order; all of them if there are no more."""
    if len(items) <= count:
        return items
    return [items[i] for i in sorted(Random(0).sample(range(len(items)), count))]


def _share(outcomes: Sequence[bool]) -> float:
    return sum(outcomes) / len(outcomes)


def losses(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """By check, how much worse the score has become (positive: worse; infinite: it is NaN now)."""
    return {
        name: loss(name, before[name], after[name])
        for name in LIMITS
        if name in before and name in after
    }


def loss(check: str, before: float, after: float) -> float:
    """How much worse the score of a check has become."""
    if math.isnan(after):
        return math.inf
    return after - before if check in ("neutral", "other") else before - after


def beyond(lost: Mapping[str, float]) -> list[str]:
    """The checks that lost more than their limit, in the order of ``LIMITS``."""
    return [name for name in LIMITS if name in lost and exceeds(name, lost[name])]


def exceeds(check: str, lost: float) -> bool:
    """Whether a check lost more than its limit."""
    return lost > LIMITS[check] + 1e-9


def _made_gold(conflicting: Sequence[ConflictCase]) -> list[Pair]:
    pairs = []
    for case in conflicting:
        context = replace_words(case.row.context, case.row.context_answer, case.memory)
        if context != case.row.context:
            pairs.append((f"{context} {case.row.question}", case.memory))
    return pairs


def _made_irrelevant(conflicting: Sequence[ConflictCase]) -> list[Pair]:
    rng = Random(0)
    pairs = []
    for case in conflicting:
        passages = [
            other.row.context
            for other in conflicting
            if (other.row.relation != case.row.relation or other.row.relation is None)
            and other.row.question != case.row.question
            and case.memory not in other.row.context
        ]
        if passages:
            pairs.append((f"{rng.choice(passages)} {case.row.question}", case.memory))
    return pairs


@torch.inference_mode()
def neutral_loss(model: EditedModel, texts: Sequence[str]) -> float:
    """The mean cross entropy over ``texts``, in nats per token. Each text is cut to the model's
    context.

    Raises:
        EditorError: no text has two tokens.
    """
    base = model.base
    total, count = 0.0, 0
    encoded = [
        ids[: base.architecture.context]
        for ids in encode_prompts(base.tokenizer, texts)
        if len(ids) > 1
    ]
    budget = Budget(pads=PADS, logits_per_token=base.vocabulary)
    for members in batches([len(ids) for ids in encoded], budget):
        batch = base.batch([Row(encoded[i], 1) for i in members])
        labels = batch.labels()[:, 1:]
        # If the logits of a text exceed the budget, it is scored in slices of positions.
        positions = max(1, LOGITS_AT_ONCE // (len(labels) * base.vocabulary))
        for start in range(0, labels.shape[1], positions):
            stop = min(start + positions, labels.shape[1])
            in_parts = positions < labels.shape[1]
            options = {"logits_to_keep": torch.arange(start, stop)} if in_parts else {}
            logits = _logits(model, batch.ids, **options)[:, : stop - start].float()
            wanted = labels[:, start:stop].to(logits.device).flatten()
            # logits: [rows, positions, vocab]
            total += float(
                cross_entropy(logits.flatten(0, 1), wanted, reduction="sum", ignore_index=IGNORED)
            )
            count += int((wanted != IGNORED).sum())
    if not count:
        raise EditorError("no neutral text has two tokens", "`--neutral` with longer texts")
    return total / count


@torch.inference_mode()
def copying(model: EditedModel, copies: int = COPIES) -> float:
    """Induction: in ``copies`` random texts that are repeated once, the share of tokens of the
    second half that the model predicts."""
    vocabulary = model.base.vocabulary
    length = min(COPIED_TOKENS, (model.base.architecture.context or 2 * COPIED_TOKENS) // 2)
    # The lowest ids are often special tokens, so they are left out.
    low, generator = min(256, vocabulary // 4), torch.Generator().manual_seed(0)
    halves = torch.randint(low, vocabulary, (copies, length), generator=generator)
    right = 0
    for members in batches([2 * length] * copies, Budget(logits_per_token=vocabulary)):
        ids = halves[members].repeat(1, 2).to(model.base.input_device)
        logits = _logits(model, ids, logits_to_keep=length)[:, :-1]
        right += int((logits.argmax(-1) == ids[:, length + 1 :].to(logits.device)).sum())
    return right / halves[:, 1:].numel()


def _logits(model: EditedModel, ids: torch.Tensor, **options: Any) -> torch.Tensor:
    """The logits of texts ``ids`` ``[rows, seq]``, whose first tokens count as their prompts.

    A text may be padded on the right, as a token sees only earlier tokens.
    """
    with model.scoring(torch.ones(len(ids), dtype=torch.long)):
        logits: torch.Tensor = model.base.model(input_ids=ids, use_cache=False, **options).logits
    return logits


def next_tokens(model: EditedModel, texts: Sequence[str]) -> torch.Tensor:
    """float32 ``[texts, vocab]``: the next-token distribution after ``PROMPT_SHARE`` of the words
    of each text."""
    return distributions(model, [_beginning(model.base, text) for text in texts])


def _beginning(base: Base, text: str) -> str:
    words = text.split()
    words = words[: max(1, round(len(words) * PROMPT_SHARE))]
    context = base.architecture.context or math.inf
    while len(words) > 1 and len(encode_prompt(base.tokenizer, " ".join(words))) > context:
        words = words[: len(words) // 2]
    return " ".join(words)


def divergence(before: torch.Tensor, after: torch.Tensor) -> tuple[float, float]:
    """The mean KL(after || before) over rows, in nats, and the share of rows with the same
    likeliest token. ``before``, ``after``: distributions ``[rows, vocab]``."""
    p, q = after.double().clamp_min(1e-30), before.double().clamp_min(1e-30)
    kl = (p * (p.log() - q.log())).sum(-1).mean()
    same = (before.argmax(-1) == after.argmax(-1)).double().mean()
    return float(kl), float(same)
