"""The paper's own scope: how much a side memory would change what the projection gives.

WISE routes by the activation of its side memories (Eq. 3) against thresholds that were measured
while the edits were trained (Eq. 6). It names memories, not facts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from editors.inference.decisions import Decision, Proposal
from editors.inference.hidden_states import projection_inputs
from editors.methods.wise.shards import Memory
from editors.model.base_model import Base
from editors.model.tokenization import Ids

ROUNDING = 1e-4  # the edit that set a threshold lies exactly on it, and must pass


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


class ActivationRouter:
    """Chooses the memory with the largest activation that reaches its own threshold.

    WISE Eq. 6, and Top-1 over eligible memories (section 2.3.3): one that fails its threshold
    cannot keep another from being chosen. Eq. 6 asks for more than the threshold; as the threshold
    is the smallest activation over the edits, that would shut out the edit that set it.
    """

    reads: tuple[int, ...] = ()  # it reads what the edited projection itself reads

    def __init__(self, base: Base, memories: Sequence[Memory], ratio: float = 1.0) -> None:
        self._base = base
        self._deltas = torch.stack([memory.delta() for memory in memories]).to(base.device)
        self._thresholds = [memory.threshold * ratio for memory in memories]

    def propose(self, prompts: Sequence[Ids]) -> Proposal:
        inputs = projection_inputs(self._base, prompts)
        return Proposal(prompts, [self._decide(one) for one in inputs])

    def decide(self, proposal: Proposal, states: torch.Tensor | None) -> list[Decision]:
        return proposal.decisions

    def speaks_of(self, prompt: Ids, fact: str) -> bool:
        return False

    def _decide(self, inputs: torch.Tensor) -> Decision:
        scores = [float(activation(inputs, delta)) for delta in self._deltas]
        order = sorted(range(len(scores)), key=lambda memory: scores[memory], reverse=True)
        # Thresholds were measured as the base computes, in batches.
        slack = max(ROUNDING, torch.finfo(self._base.model.dtype).eps)
        least = [threshold * (1 - slack) for threshold in self._thresholds]
        best = next((memory for memory in order if scores[memory] >= least[memory]), None)
        shown = order[0] if best is None else best
        memory = -1 if best is None else best
        return Decision(memory, None, scores[shown], self._thresholds[shown])
