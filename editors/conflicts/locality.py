"""What pruning heads must not cost: the locality checks of PH3 (section 5.4), and their gates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from random import Random

import torch

from editors.conflicts.cases import Asked, first_token, next_probabilities, outcome_of
from editors.errors import EditorError
from editors.facts import Fact
from editors.inference.attach import Attached
from editors.inference.generation import answers
from editors.inference.hidden_states import same_length
from editors.model.base_model import Base
from editors.model.tokenization import encode_prompt, fits

GATES: Mapping[str, float] = {
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
"""How much worse each score may get; shares but for ``neutral``, a loss."""

ROOM = 16  # tokens of a closed-book answer
COPIED = 12  # random tokens that are repeated
COPIES = 64  # such sequences
PROMPT_SHARE = 0.6  # of a neutral text, after which next tokens are compared

Pair = tuple[str, str]
Right = Callable[[Base, Sequence[Pair]], list[bool]]
"""Which prompts are answered as wanted."""


def by_first_token(base: Base, pairs: Sequence[Pair]) -> list[bool]:
    """Judged by the likeliest first token: one forward, to compare many sets of heads."""
    if not pairs:
        return []
    guessed = next_probabilities(base, [prompt for prompt, _ in pairs]).argmax(-1).tolist()
    return [
        token == first_token(base, prompt, wanted)
        for token, (prompt, wanted) in zip(guessed, pairs, strict=True)
    ]


def by_answer(base: Base, pairs: Sequence[Pair]) -> list[bool]:
    """Judged by free-running greedy answers."""
    longest = max((len(encode_prompt(base.tokenizer, f" {w}")) for _, w in pairs), default=0)
    said = answers(base, [prompt for prompt, _ in pairs], max(longest + 4, ROOM))
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
    def of(asked: Sequence[Asked], edits: Sequence[Fact], neutral: Sequence[str]) -> Battery:
        """The checks that ``asked`` rows and the facts in force give rise to.

        Where no row is of kind gold or irrelevant, such rows are made of the others: the memory
        answer put into the passage in place of the context's, the passage of another relation.
        """
        plain = [a for a in asked if a.fact is None]
        conflicting = [a for a in plain if a.conflicting]
        gold = [(a.row.prompt, a.memory) for a in plain if a.row.kind == "gold"]
        irrelevant = [(a.row.prompt, a.memory) for a in plain if a.row.kind == "irrelevant"]
        pairs = {
            "facts": list(dict.fromkeys((a.row.question, a.memory) for a in plain)),
            "gold": gold or _made_gold(conflicting),
            "irrelevant": irrelevant or _made_irrelevant(conflicting),
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

    def scores(self, base: Base, right: Right, edited: Attached | None = None) -> dict[str, float]:
        """Each check's score: the share right, and for ``neutral`` the loss in nats a token.

        ``edited``: what is attached; heads that it prunes from the end of prompts on are pruned all
        through a text, as if its first token had been continued to the rest.
        """
        flat = [pair for pairs in self.pairs.values() for pair in pairs]
        outcomes = iter(right(base, flat))
        found = {
            name: sum(next(outcomes) for _ in pairs) / len(pairs)
            for name, pairs in self.pairs.items()
        }
        found["copying"] = copying(base, edited)
        if self.neutral:
            found["neutral"] = neutral_loss(base, self.neutral, edited)
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
        for name in GATES
        if name in before and name in after
    }


def beyond(lost: Mapping[str, float]) -> list[str]:
    """The checks that lost more than their gate, in the order of the gates."""
    return [name for name in GATES if lost.get(name, 0.0) > GATES[name] + 1e-9]


def _made_gold(conflicting: Sequence[Asked]) -> list[Pair]:
    return [
        (f"{a.row.context.replace(a.row.context_answer, a.memory)} {a.row.question}", a.memory)
        for a in conflicting
        if a.row.context_answer in a.row.context
    ]


def _made_irrelevant(conflicting: Sequence[Asked]) -> list[Pair]:
    rng = Random(0)
    found = []
    for a in conflicting:
        others = [
            b.row.context
            for b in conflicting
            if b.row.relation != a.row.relation or b.row.relation is None
            if b.row.question != a.row.question and a.memory not in b.row.context
        ]
        if others:
            found.append((f"{rng.choice(others)} {a.row.question}", a.memory))
    return found


@torch.inference_mode()
def neutral_loss(base: Base, texts: Sequence[str], edited: Attached | None = None) -> float:
    """Mean cross-entropy in nats a token over ``texts``, each as far as the model's context goes.

    Raises:
        EditorError: no text has a token after its first.
    """
    total, count = 0.0, 0
    context = base.architecture.context
    encoded = [encode_prompt(base.tokenizer, text)[:context] for text in texts]
    for _, ids in same_length(base, encoded):
        if ids.shape[1] < 2:
            continue
        with _continued(ids, edited):
            logits = base.model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        targets = ids[:, 1:].to(logits.device)
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
def copying(base: Base, edited: Attached | None = None, seed: int = 0) -> float:
    """Induction: the share of tokens guessed in the second half of a random text said twice."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = int(base.model.get_output_embeddings().weight.shape[0])
    context = base.architecture.context or 2 * COPIED
    length = min(COPIED, context // 2)
    # Ids at the low end are often special; a text of plain ones is what can be copied.
    low = min(256, vocabulary // 4)
    half = torch.randint(low, vocabulary, (COPIES, length), generator=generator)
    ids = torch.cat([half, half], 1).to(base.input_device)
    with _continued(ids, edited):
        logits = base.model(input_ids=ids, use_cache=False).logits
    guessed = logits[:, length:-1].argmax(-1).cpu()
    return float((guessed == half[:, 1:]).float().mean())


def _continued(ids: torch.Tensor, edited: Attached | None) -> AbstractContextManager[None]:
    """A forward over texts as if each had been generated from its first token."""
    return edited.reading_on(torch.ones(len(ids))) if edited else nullcontext()


def next_tokens(base: Base, texts: Sequence[str]) -> torch.Tensor:
    """float32 ``[texts, vocab]``: what follows the greater part of each neutral text."""
    return next_probabilities(base, [_begun(base, text) for text in texts])


def _begun(base: Base, text: str) -> str:
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
