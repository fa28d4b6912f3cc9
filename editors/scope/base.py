"""Routing: which memory answers a prompt. The contract, and the paper's activation router.

A router decides once for each prompt, from prompt tokens only, before the edited projection runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from editors.inference.hidden_states import Ids, projection_inputs
from editors.methods.wise.shards import Memory
from editors.model.base_model import Base


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a prompt goes: ``shard`` (-1: main memory), the ``fact`` that claims it if one does.

    ``score`` against ``threshold`` is what was decided on (the best candidate's, also where main
    memory won); without any candidate ``score`` is 0. ``yielded``: side memory would have answered,
    but a passage in the prompt speaks of the fact.
    """

    shard: int
    fact: str | None = None
    score: float = 0.0
    threshold: float = float("inf")
    yielded: bool = False

    @property
    def opened(self) -> bool:
        """The prompt goes through side memory."""
        return self.shard >= 0


MAIN = Decision(-1)


@dataclass(frozen=True, slots=True)
class Claims:
    """What a router knows of prompts before the base has read them.

    ``decisions``: one for each prompt, final but for the ``rows`` in question; ``candidates``: by
    such a row, the facts that may claim it.
    """

    decisions: list[Decision]
    candidates: Mapping[int, Sequence[int]]

    @property
    def rows(self) -> list[int]:
        return list(self.candidates)


class Router(Protocol):
    """Decides for each prompt, given as the token ids that the model will see."""

    def decide(self, prompts: Sequence[Ids]) -> list[Decision]:
        """One decision for each prompt; the base is on main memory while it is called."""
        ...


@runtime_checkable
class SettlingRouter(Router, Protocol):
    """A router that reads nothing but states which a forward makes below the edited projection.

    So it can be asked in the midst of the forward whose prompts it decides on, and costs none of
    its own.
    """

    @property
    def reads(self) -> tuple[int, ...]:
        """The blocks after which it reads the last prompt token's state."""
        ...

    def begin(self, prompts: Sequence[Ids]) -> Claims:
        """What can be said before the base has read the prompts."""
        ...

    def settle(self, claims: Claims, states: torch.Tensor) -> list[Decision]:
        """All decisions; ``states``: float32 ``[rows, layers, hidden]`` of ``claims.rows``."""
        ...


class MainRouter:
    """Sends every prompt to main memory: a store without edits."""

    def decide(self, prompts: Sequence[Ids]) -> list[Decision]:
        return [MAIN] * len(prompts)


def activation(inputs: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """The routing activation of one prompt (WISE Eq. 3): a scalar, differentiable in ``delta``.

    ``inputs``: ``[tokens, in]``, what the edited projection reads; ``delta``: ``[out, in]``, the
    side memory's weight minus the main memory's. The norm of what the side memory changes, as a
    mean over the prompt's tokens.
    """
    return activations((inputs @ delta.T)[None], torch.tensor([len(inputs)]))[0]


def activations(side: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """``[rows]``: the :func:`activation` of each row, over its first ``lengths`` ``[rows]`` tokens.

    ``side``: ``[rows, tokens, out]``, what the side memory adds to the projection's output; what
    lies after a row's tokens does not matter.
    """
    lengths = lengths.to(side.device)
    moved = safe_norm(side.square().sum(-1))  # [rows, tokens]
    inside = torch.arange(side.shape[1], device=side.device) < lengths[:, None]
    return torch.where(inside, moved, 0.0).sum(1) / lengths


def safe_norm(squares: torch.Tensor) -> torch.Tensor:
    """The square root with gradient 0 at 0, where nothing has moved yet (WISE at W' = W)."""
    moved = squares > 0
    return torch.where(moved, squares.where(moved, 1.0).sqrt(), 0.0)


# The edit that set a threshold lies exactly on it, up to rounding, and must pass.
ROUNDING = 1e-4


class ActivationRouter:
    """The paper's router: the memory with the largest activation that reaches its own threshold.

    WISE Eq. 6, and Top-1 over eligible memories (section 2.3.3): one that fails its threshold
    cannot keep another from being chosen. Eq. 6 asks for more than the threshold; as the threshold
    is the smallest activation over the edits, that would shut out the edit that set it.
    """

    def __init__(self, base: Base, memories: Sequence[Memory], ratio: float = 1.0) -> None:
        self._base = base
        self._deltas = torch.stack([memory.delta() for memory in memories]).to(base.device)
        self._thresholds = [memory.threshold * ratio for memory in memories]

    def decide(self, prompts: Sequence[Ids]) -> list[Decision]:
        return [self._decide(inputs) for inputs in projection_inputs(self._base, prompts)]

    def _decide(self, inputs: torch.Tensor) -> Decision:
        scores = [float(activation(inputs, delta)) for delta in self._deltas]
        order = sorted(range(len(scores)), key=lambda s: scores[s], reverse=True)
        # Thresholds were measured as the base computes, in batches.
        slack = max(ROUNDING, torch.finfo(self._base.model.dtype).eps)
        least = [threshold * (1 - slack) for threshold in self._thresholds]
        best = next((s for s in order if scores[s] >= least[s]), None)
        if best is None:
            nearest = order[0]
            return Decision(-1, None, scores[nearest], self._thresholds[nearest])
        return Decision(best, None, scores[best], self._thresholds[best])
