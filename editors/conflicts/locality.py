"""What pruning heads must not cost: checks of everything else, and how much each may lose."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import torch

from editors.conflicts.cases import ConflictCase, outcome_of
from editors.conflicts.measure import first_tokens
from editors.errors import EditorError
from editors.facts import Fact
from editors.inference.batching import LOGITS_AT_ONCE, Budget, batches
from editors.inference.edited_model import EditedModel
from editors.inference.generation import EXTRA_TOKENS, answers
from editors.inference.next_tokens import distributions, likeliest
from editors.model.base_model import Base
from editors.model.tokenization import Row, answer_length, encode_prompts, fits
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
"""How much worse each score may get; shares except for ``neutral``, which is a loss."""

MIN_ANSWER_TOKENS = 16  # that a closed-book answer may have
COPIED_TOKENS = 12  # random tokens that are repeated
COPIES = 64  # such sequences
PROMPT_SHARE = 0.6  # of a neutral text, after which next tokens are compared

Pair = tuple[str, str]
"""A prompt and the answer that is wanted."""

Judge = Callable[[EditedModel, Sequence[Pair]], list[bool]]
"""Tells which prompts are answered as wanted."""


def by_first_token(model: EditedModel, pairs: Sequence[Pair]) -> list[bool]:
    """Judged by the likeliest first token: one forward, to compare many sets of heads."""
    likely = likeliest(model, [prompt for prompt, _ in pairs])
    wanted = first_tokens(model.base, pairs)
    return [token == first for token, first in zip(likely, wanted, strict=True)]


def by_answer(model: EditedModel, pairs: Sequence[Pair]) -> list[bool]:
    """Judged by free-running greedy answers."""
    longest = answer_length(model.base.tokenizer, [wanted for _, wanted in pairs])
    tokens = max(longest + EXTRA_TOKENS, MIN_ANSWER_TOKENS)
    said = answers(model, [prompt for prompt, _ in pairs], tokens)
    return [
        outcome_of(answer.text, {"memory": wanted})[0] == "memory"
        for answer, (_, wanted) in zip(said, pairs, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Battery:
    """Everything that must stay as it is, as prompts with the answers wanted, and neutral text."""

    pairs: Mapping[str, Sequence[Pair]] = field(default_factory=dict)
    neutral: Sequence[str] = ()

    @staticmethod
    def of(cases: Sequence[ConflictCase], edits: Sequence[Fact], neutral: Sequence[str]) -> Battery:
        """The checks that cases and the facts in force give rise to.

        Where no row is of kind gold or irrelevant, such rows are made of the others: the memory
        answer put into the passage in place of the context's, the passage of another relation.
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
                if probe.kind == "near" and probe.answer is not None
            ],
        }
        return Battery({name: found for name, found in pairs.items() if found}, neutral)

    def scores(self, model: EditedModel, judge: Judge) -> dict[str, float]:
        """Each check's score: the share right, and for ``neutral`` the loss in nats a token.

        The first token of a neutral text counts as its prompt: heads that are pruned from the end
        of prompts on are pruned all through it.
        """
        flat = [pair for pairs in self.pairs.values() for pair in pairs]
        outcomes = iter(judge(model, flat))
        found = {
            name: sum(next(outcomes) for _ in pairs) / len(pairs)
            for name, pairs in self.pairs.items()
        }
        found["copying"] = copying(model)
        if self.neutral:
            found["neutral"] = neutral_loss(model, self.neutral)
        return found


def losses(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """How much worse each score has got: a positive number is a loss.

    A score that is no number any more is lost altogether.
    """
    worse_up = ("neutral", "other")
    return {
        name: math.inf
        if math.isnan(after[name])
        else after[name] - before[name]
        if name in worse_up
        else before[name] - after[name]
        for name in LIMITS
        if name in before and name in after
    }


def beyond(lost: Mapping[str, float]) -> list[str]:
    """The checks that lost more than their limit, in the order of the limits."""
    return [name for name in LIMITS if lost.get(name, 0.0) > LIMITS[name] + 1e-9]


def _made_gold(conflicting: Sequence[ConflictCase]) -> list[Pair]:
    found = []
    for case in conflicting:
        context = replace_words(case.row.context, case.row.context_answer, case.memory)
        if context != case.row.context:
            found.append((f"{context} {case.row.question}", case.memory))
    return found


def _made_irrelevant(conflicting: Sequence[ConflictCase]) -> list[Pair]:
    rng = Random(0)
    found = []
    for case in conflicting:
        others = [
            other.row.context
            for other in conflicting
            if other.row.relation != case.row.relation or other.row.relation is None
            if other.row.question != case.row.question and case.memory not in other.row.context
        ]
        if others:
            found.append((f"{rng.choice(others)} {case.row.question}", case.memory))
    return found


@torch.inference_mode()
def neutral_loss(model: EditedModel, texts: Sequence[str]) -> float:
    """Mean cross-entropy in nats a token over ``texts``, each as far as the model's context goes.

    Raises:
        EditorError: no text has a token after its first.
    """
    base = model.base
    total, count = 0.0, 0
    context = base.architecture.context
    encoded = [ids[:context] for ids in encode_prompts(base.tokenizer, texts)]
    encoded = [ids for ids in encoded if len(ids) > 1]
    budget = Budget(pads=0, logits_per_token=base.vocabulary)
    for part in batches([len(ids) for ids in encoded], budget):
        ids = base.batch([Row.of_prompt(encoded[i]) for i in part]).ids
        # A text whose logits do not fit the budget is scored in slices of positions.
        positions = max(1, LOGITS_AT_ONCE // (len(ids) * base.vocabulary))
        for start in range(0, ids.shape[1] - 1, positions):
            stop = min(start + positions, ids.shape[1] - 1)
            whole = stop - start == ids.shape[1] - 1
            kept = {} if whole else {"logits_to_keep": torch.arange(start, stop)}
            with model.scoring(torch.ones(len(ids), dtype=torch.long)):
                logits = base.model(input_ids=ids, use_cache=False, **kept).logits
            logits = logits[:, : stop - start].float()  # [rows, positions, vocab]
            targets = ids[:, start + 1 : stop + 1].to(logits.device)
            total += float(
                torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1), targets.flatten(), reduction="sum"
                )
            )
            count += targets.numel()
    if not count:
        raise EditorError("no neutral text has two tokens", "`--neutral` with longer texts")
    return total / count


@torch.inference_mode()
def copying(model: EditedModel, seed: int = 0) -> float:
    """Induction: the share of tokens guessed in the second half of a random text said twice."""
    base = model.base
    generator = torch.Generator().manual_seed(seed)
    vocabulary = int(base.model.get_output_embeddings().weight.shape[0])
    context = base.architecture.context or 2 * COPIED_TOKENS
    length = min(COPIED_TOKENS, context // 2)
    # Ids at the low end are often special; a text of plain ones is what can be copied.
    low = min(256, vocabulary // 4)
    half = torch.randint(low, vocabulary, (COPIES, length), generator=generator)
    guessed = torch.zeros_like(half[:, 1:])
    budget = Budget(pads=0, logits_per_token=vocabulary)
    for part in batches([2 * length] * COPIES, budget):
        ids = torch.cat([half[part], half[part]], 1).to(base.input_device)
        with model.scoring(torch.ones(len(part), dtype=torch.long)):
            logits = base.model(input_ids=ids, use_cache=False).logits
        guessed[part] = logits[:, length:-1].argmax(-1).cpu()
    return float((guessed == half[:, 1:]).float().mean())


def next_tokens(model: EditedModel, texts: Sequence[str]) -> torch.Tensor:
    """float32 ``[texts, vocab]``: what follows the greater part of each neutral text."""
    return distributions(model, [_beginning(model.base, text) for text in texts])


def _beginning(base: Base, text: str) -> str:
    words = text.split()
    words = words[: max(1, round(len(words) * PROMPT_SHARE))]
    while len(words) > 1 and not fits(base.tokenizer, " ".join(words), base.architecture.context):
        words = words[: len(words) // 2]
    return " ".join(words)


def divergence(before: torch.Tensor, after: torch.Tensor) -> tuple[float, float]:
    """Mean KL(after || before) in nats over rows, and the share of rows with the same top token."""
    p, q = after.double().clamp_min(1e-30), before.double().clamp_min(1e-30)
    kl = (p * (p.log() - q.log())).sum(-1).mean()
    same = (before.argmax(-1) == after.argmax(-1)).double().mean()
    return float(kl), float(same)
