"""The uncertainty of a model's answers, and how far a context moves them (DynamicQA, arXiv
2407.17023).

Answers are sampled with and without a context, and clustered by meaning. Semantic entropy (Kuhn et
al., arXiv 2302.09664) measures the number of meanings and their likelihoods. Coherent persuasion
measures how far the distributions of meanings with the context are from those without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

import torch

from editors.errors import EditorError
from editors.inference.edited_model import EditedModel
from editors.inference.generation import decode, read, stop_ids
from editors.model.base_model import Base
from editors.model.tokenization import Prompt, Row, encode_prompt
from editors.text_matching import normalised

SHIFT = 5.0  # added to semantic entropy, as in the released code of DynamicQA
SMOOTHING = 1e-6  # the share of the uniform distribution in the reference distributions

Entails = Callable[[Sequence[tuple[str, str]]], list[bool]]
"""For each pair of a premise and a hypothesis, whether the premise entails the hypothesis."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled answer.

    ``score``: the mean log-likelihood of its tokens, stop token included, in nats;
    ``distribution``: float32 ``[vocab]`` on the CPU, the mean next-token distribution over the same
    positions. Both are at temperature 1, whatever temperature the sample was drawn at.
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
    """``count`` answers to each prompt, sampled from the whole vocabulary at ``temperature``.

    The samples of a prompt depend on ``seed`` and on the prompt, but not on the other prompts. For
    independent samples, take another seed. The generation settings of the model are ignored.

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
    """Entailment without a model: whether both texts are equal after normalisation."""
    return [normalised(premise) == normalised(hypothesis) for premise, hypothesis in pairs]


def clusters(texts: Sequence[str], entails: Entails) -> list[list[int]]:
    """The indices of ``texts``, clustered by meaning.

    A text joins the first cluster whose first member entails it and is entailed by it. This is a
    partition even if entailment is not transitive. In the released code of DynamicQA, clusters may
    overlap, as each text begins one.
    """
    members_by_cluster, remaining = [], list(range(len(texts)))
    while remaining:
        first, *others = remaining
        forward_pairs = [(texts[first], texts[i]) for i in others]
        backward_pairs = [(hypothesis, premise) for premise, hypothesis in forward_pairs]
        entailed = entails([*forward_pairs, *backward_pairs])
        judged = zip(others, entailed[: len(others)], entailed[len(others) :], strict=True)
        members = [first, *(i for i, forward, backward in judged if forward and backward)]
        members_by_cluster.append(members)
        remaining = [i for i in others if i not in members]
    return members_by_cluster


def semantic_entropy(scores: Sequence[float], clusters: Sequence[Sequence[int]]) -> float:
    """``SHIFT`` minus the mean log mass of the clusters, in nats, as DynamicQA computes it.

    ``scores``: the mean token log-likelihood of each sample; ``clusters``: at least one. The log
    mass of a cluster is the logsumexp of the scores of its samples. The mean is not weighted by
    likelihood, so the result may be negative.
    """
    masses = [
        float(torch.tensor([scores[i] for i in members], dtype=torch.float64).logsumexp(0))
        for members in clusters
    ]
    return SHIFT - math.fsum(masses) / len(masses)


def cluster_entropy(clusters: Sequence[Sequence[int]]) -> float:
    """The entropy of the shares of samples in each cluster, in nats: from 0 to the logarithm of the
    number of clusters."""
    sizes = [len(cluster) for cluster in clusters]
    total = sum(sizes)
    return math.fsum(size / total * math.log(total / size) for size in sizes)


def coherent_persuasion(
    with_context: Sequence[torch.Tensor], without: Sequence[torch.Tensor]
) -> float:
    """The mean divergence KL(P_i || Q_j) over all pairs of clusters, in nats (DynamicQA).

    ``with_context``: the P_i; ``without``: the Q_j. Each is ``[vocab]``, the mean distribution of a
    cluster; there must be one of both kinds. The Q_j are mixed with a share ``SMOOTHING`` of the
    uniform distribution, so that each divergence is finite. Even between two identical sets of
    several clusters, the mean is above 0, so :class:`Uncertainty` has a control.
    """
    P, Q = torch.stack([*with_context]).double(), torch.stack([*without]).double()
    P, Q = P / P.sum(1, keepdim=True), Q / Q.sum(1, keepdim=True)
    Q = (1 - SMOOTHING) * Q + SMOOTHING / Q.shape[1]
    divergences = torch.xlogy(P, P).sum(1)[:, None] - P @ Q.log().T  # [with, without]
    return float(divergences.mean())


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """The measures of one question, without and with a context, in nats.

    ``coherent_persuasion``: with a context against without; ``coherent_persuasion_control``: of two
    independent sets of samples without a context, as merely sampling again moves answers too.
    """

    semantic_entropy: float
    semantic_entropy_with_context: float
    cluster_entropy: float
    cluster_entropy_with_context: float
    coherent_persuasion: float
    coherent_persuasion_control: float

    @property
    def coherent_persuasion_net(self) -> float:
        """The persuasion less its control; may be negative."""
        return self.coherent_persuasion - self.coherent_persuasion_control

    @staticmethod
    def of(
        with_context: Sequence[Sample],
        without: Sequence[Sample],
        control: Sequence[Sample],
        entails: Entails,
    ) -> Uncertainty:
        """All measures of one question.

        ``control``: samples without the context, drawn independently of ``without``. All three must
        have samples.
        """
        informed, alone, again = (
            _Meanings.of(drawn, entails) for drawn in (with_context, without, control)
        )
        return Uncertainty(
            semantic_entropy(alone.scores, alone.clusters),
            semantic_entropy(informed.scores, informed.clusters),
            cluster_entropy(alone.clusters),
            cluster_entropy(informed.clusters),
            coherent_persuasion(informed.means, alone.means),
            coherent_persuasion(again.means, alone.means),
        )


class _Meanings(NamedTuple):
    """Samples by meaning. ``scores``: of each sample; ``clusters``: of sample numbers; ``means``:
    ``[vocab]``, the mean distribution of each cluster."""

    scores: list[float]
    clusters: list[list[int]]
    means: list[torch.Tensor]

    @staticmethod
    def of(samples: Sequence[Sample], entails: Entails) -> _Meanings:
        members_by_cluster = clusters([sample.text for sample in samples], entails)
        means = [
            torch.stack([samples[i].distribution for i in members]).mean(0)
            for members in members_by_cluster
        ]
        return _Meanings([sample.score for sample in samples], members_by_cluster, means)


def _generator(seed: int, prompt: str) -> torch.Generator:
    """A generator on the CPU, so that the draws are the same on every device."""
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
    """The samples of one prompt, drawn in one batch."""
    ids = base.batch([Row.of_prompt(encode_prompt(base.tokenizer, prompt))] * count).ids
    ends = torch.tensor([*stop_ids(base)], dtype=torch.long)
    running = torch.ones(count, dtype=torch.bool)
    # Over the tokens of each sample: their number, log-likelihoods, and distributions.
    lengths, score = torch.zeros(count), torch.zeros(count, dtype=torch.float64)
    mass = torch.zeros((), dtype=torch.float64)

    def draw(_: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Logits ``[count, vocab]`` that are largest at the drawn tokens, so that greedy decoding
        chooses these. ``logits``: ``[count, vocab]``, of the model."""
        nonlocal mass
        logs = logits.cpu().double().log_softmax(-1)
        weights = (logs / temperature).softmax(-1)
        drawn = torch.multinomial(weights, 1, generator=generator)  # [count, 1]
        lengths.add_(running)
        score.add_(running * logs.gather(1, drawn)[:, 0])
        mass = mass + running[:, None] * logs.exp()
        running.logical_and_(~torch.isin(drawn[:, 0], ends))
        return torch.zeros_like(logits).scatter(1, drawn.to(logits.device), 1.0)

    out = decode(base, ids, max_new_tokens, choose=draw)
    texts = [read(base, row)[0] for row in out.tolist()]
    scores, means = (score / lengths).tolist(), (mass / lengths[:, None]).float()
    return [Sample(*sample) for sample in zip(texts, scores, means, strict=True)]
