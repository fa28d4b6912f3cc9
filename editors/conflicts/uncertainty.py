"""How sure a model is of an answer, and how far a context moves it (DynamicQA, arXiv 2407.17023).

Answers are sampled with and without a context and grouped by meaning. Semantic entropy (Kuhn et
al., arXiv 2302.09664) tells how many meanings there are and how likely they are; coherent
persuasion, how far the context carries the distribution of one meaning from those without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch

from editors.errors import EditorError
from editors.inference.edited_model import EditedModel
from editors.inference.generation import decode, read, stop_ids
from editors.model.base_model import Base
from editors.model.tokenization import Prompt, Row, encode_prompt
from editors.text_matching import normalised

SHIFT = 5.0  # of semantic entropy, as in the released code: it only moves the zero
SMOOTHING = 1e-6  # share of the uniform distribution in what is diverged from

Entails = Callable[[Sequence[tuple[str, str]]], list[bool]]
"""For each pair of a premise and a hypothesis, whether the premise entails the hypothesis."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled answer.

    ``score``: mean log-likelihood of its tokens, the stop token included; ``distribution``: float32
    ``[vocab]`` on the CPU, the mean next-token distribution over the same positions. Both are the
    model's own, at temperature 1.
    """

    text: str
    score: float
    distribution: torch.Tensor


@torch.inference_mode()
def samples(
    model: EditedModel,
    prompts: Sequence[str],
    count: int,
    max_new_tokens: int,
    temperature: float = 0.5,
    seed: int = 0,
) -> list[list[Sample]]:
    """``count`` answers to each prompt, drawn from the whole vocabulary (top-p 1).

    A prompt's samples depend on ``seed`` and on the prompt, not on what else is asked; an
    independent set of them takes another seed. Nothing but ``temperature`` shapes the draw: the
    model's generation settings, penalties among them, are left out.

    Raises:
        EditorError: ``count``, ``max_new_tokens`` or ``temperature`` is not above 0, or a prompt
            has no tokens.
    """
    if not (count > 0 and max_new_tokens > 0 and temperature > 0):
        raise EditorError(
            f"{count} samples of {max_new_tokens} tokens at temperature {temperature} "
            "cannot be drawn",
            "all three must be above 0",
        )
    return [
        _draw(model.base, rewritten, count, max_new_tokens, temperature, _generator(seed, prompt))
        for prompt, (rewritten, _) in zip(prompts, model.rewritten(prompts), strict=True)
    ]


def same_answer(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Entailment without a model: both texts are one after normalisation."""
    return [normalised(premise) == normalised(hypothesis) for premise, hypothesis in pairs]


def clusters(texts: Sequence[str], entails: Entails) -> list[list[int]]:
    """The indices of ``texts`` by meaning: a text joins the first cluster that it shares one with.

    A meaning is shared where the text and the cluster's first member entail each other. This is a
    partition even where entailment is not transitive; in DynamicQA's released code, which gathers
    around every text, clusters may overlap.
    """
    found, left = [], list(range(len(texts)))
    while left:
        first, *others = left
        there = [(texts[first], texts[i]) for i in others]
        back = [(hypothesis, premise) for premise, hypothesis in there]
        said = entails([*there, *back])
        both = zip(others, said[: len(others)], said[len(others) :], strict=True)
        joined = [first, *(i for i, one, other in both if one and other)]
        found.append(joined)
        left = [i for i in others if i not in joined]
    return found


def semantic_entropy(scores: Sequence[float], clusters: Sequence[Sequence[int]]) -> float:
    """Minus the mean over clusters of log mass less ``SHIFT``, as DynamicQA computes it.

    ``scores``: each sample's mean token log-likelihood; a cluster's log mass is their logsumexp in
    it. A mean over clusters, not an expectation: it may be negative. There must be a cluster.
    """
    masses = [
        float(torch.tensor([scores[i] for i in part], dtype=torch.float64).logsumexp(0))
        for part in clusters
    ]
    return SHIFT - math.fsum(masses) / len(masses)


def cluster_entropy(clusters: Sequence[Sequence[int]]) -> float:
    """The entropy of the clusters' shares of the samples, in nats: 0 to ln of their number."""
    sizes = [len(cluster) for cluster in clusters]
    total = sum(sizes)
    return math.fsum(size / total * math.log(total / size) for size in sizes)


def coherent_persuasion(
    with_context: Sequence[torch.Tensor], without: Sequence[torch.Tensor]
) -> float:
    """The mean divergence KL(P_i || Q_j) over all pairs of clusters, in nats (DynamicQA).

    ``with_context``: the P_i, ``without``: the Q_j, ``[vocab]`` each, at least one of each, the
    mean distributions of the clusters. Q is mixed with ``SMOOTHING`` of the uniform distribution,
    so that the divergence is finite; no pair is dropped. Several clusters diverge from each other:
    the mean is above 0 even between identical sets, see ``Persuasion``.
    """
    P, Q = torch.stack([*with_context]).double(), torch.stack([*without]).double()
    P, Q = P / P.sum(1, keepdim=True), Q / Q.sum(1, keepdim=True)
    Q = (1 - SMOOTHING) * Q + SMOOTHING / Q.shape[1]
    divergences = torch.xlogy(P, P).sum(1)[:, None] - P @ Q.log().T  # [with, without]
    return float(divergences.mean())


@dataclass(frozen=True, slots=True)
class Persuasion:
    """Coherent persuasion: ``raw`` of a context, and of the ``control``, no context at all."""

    raw: float
    control: float

    @property
    def value(self) -> float:
        """What the context adds to the spread of the answers without it; may be negative."""
        return self.raw - self.control


def persuasion(
    with_context: Sequence[Sample],
    without: Sequence[Sample],
    control: Sequence[Sample],
    entails: Entails,
) -> Persuasion:
    """How far a context moves the answers, beside how far asking again does.

    ``control``: samples without the context, drawn independently of ``without``. No set is empty.
    """
    informed, alone, again = (_Meanings.of(s, entails) for s in (with_context, without, control))
    return _persuasion(informed, alone, again)


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """One question's measures, asked alone and with a context."""

    semantic_entropy: float
    semantic_entropy_with_context: float
    cluster_entropy: float
    cluster_entropy_with_context: float
    persuasion: Persuasion

    @staticmethod
    def of(
        with_context: Sequence[Sample],
        without: Sequence[Sample],
        control: Sequence[Sample],
        entails: Entails,
    ) -> Uncertainty:
        """All measures of one question; the samples are those of :func:`persuasion`."""
        informed, alone, again = (
            _Meanings.of(drawn, entails) for drawn in (with_context, without, control)
        )
        return Uncertainty(
            semantic_entropy(alone.scores, alone.clusters),
            semantic_entropy(informed.scores, informed.clusters),
            cluster_entropy(alone.clusters),
            cluster_entropy(informed.clusters),
            _persuasion(informed, alone, again),
        )


@dataclass(frozen=True, slots=True)
class _Meanings:
    """Samples by meaning; ``means``: ``[vocab]`` of each cluster."""

    scores: list[float]
    clusters: list[list[int]]
    means: list[torch.Tensor]

    @staticmethod
    def of(samples: Sequence[Sample], entails: Entails) -> _Meanings:
        found = clusters([sample.text for sample in samples], entails)
        means = [torch.stack([samples[i].distribution for i in part]).mean(0) for part in found]
        return _Meanings([sample.score for sample in samples], found, means)


def _persuasion(informed: _Meanings, alone: _Meanings, again: _Meanings) -> Persuasion:
    return Persuasion(
        coherent_persuasion(informed.means, alone.means),
        coherent_persuasion(again.means, alone.means),
    )


def _generator(seed: int, prompt: str) -> torch.Generator:
    """On the CPU, so that every device is given the same draws."""
    digest = sha256(f"{seed}\n{prompt}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]))


def _draw(
    base: Base,
    prompt: Prompt,
    count: int,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
) -> list[Sample]:
    """One prompt's samples as one batch."""
    ids = base.batch([Row.of_prompt(encode_prompt(base.tokenizer, prompt))] * count).ids
    drawing = _Drawing(count, temperature, generator, sorted(stop_ids(base)))
    out = decode(base, ids, max_new_tokens, choose=drawing)
    texts = [read(base, row)[0] for row in out[:, ids.shape[1] :].tolist()]
    scores = (drawing.score / drawing.lengths).tolist()
    means = (drawing.mass / drawing.lengths[:, None]).float()
    return [Sample(*one) for one in zip(texts, scores, means, strict=True)]


class _Drawing:
    """Draws the next tokens, and adds up what the model itself thought of them.

    ``lengths``: ``[count]``, the tokens of each sample; ``score``: ``[count]``, the sum of their
    log-likelihoods; ``mass``: ``[count, vocab]``, the sum of the distributions they came from.
    """

    def __init__(
        self, count: int, temperature: float, generator: torch.Generator, ends: Sequence[int]
    ) -> None:
        self._temperature, self._generator = temperature, generator
        self._ends = torch.tensor(ends, dtype=torch.long)
        self._running = torch.ones(count, dtype=torch.bool)
        self.lengths = torch.zeros(count)
        self.score = torch.zeros(count, dtype=torch.float64)
        self.mass = torch.zeros((), dtype=torch.float64)

    def __call__(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Logits ``[count, vocab]`` whose largest are the drawn tokens'."""
        logs = logits.cpu().double().log_softmax(-1)
        weights = (logs / self._temperature).softmax(-1)
        drawn = torch.multinomial(weights, 1, generator=self._generator)  # [count, 1]
        self.lengths = self.lengths + self._running
        self.score = self.score + self._running * logs.gather(1, drawn)[:, 0]
        self.mass = self.mass + self._running[:, None] * logs.exp()
        self._running = self._running & ~torch.isin(drawn[:, 0], self._ends)
        return torch.zeros_like(logits).scatter(1, drawn.to(logits.device), 1.0)
