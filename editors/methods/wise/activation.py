"""The routing of the WISE paper (arXiv 2405.14768): by how much a side memory changes the output.

A memory answers if its routing activation (Eq. 3) reaches a threshold that was measured during
training (Eq. 6). Decisions name memories, not facts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from editors.inference.decisions import Decision, ImmediateRouter, Proposal
from editors.inference.hidden_states import projection_inputs
from editors.methods.wise.shards import Memory
from editors.model.base_model import Base
from editors.model.tokenization import Ids

ROUNDING = 1e-4  # relative; the edit that set a threshold lies exactly on it, and must pass


def activation(inputs: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """The routing activation of one prompt (WISE Eq. 3): a scalar, differentiable in ``delta``.

    It is the norm of the change of the projection's output, as a mean over the tokens of the
    prompt. ``inputs``: ``[tokens, in]``, the input of the edited projection; ``delta``: ``[out,
    in]``, the weight of the side memory minus the weight of the main memory.
    """
    return activations((inputs @ delta.T)[None], torch.tensor([len(inputs)]))[0]


def activations(side: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """``[rows]``: the :func:`activation` of each row, over its first ``lengths`` ``[rows]`` tokens.

    ``side``: ``[rows, tokens, out]``, what the side memory adds to the output of the projection.
    Values at later tokens do not matter.
    """
    lengths = lengths.to(side.device)
    moved = safe_norm(side.square().sum(-1))  # [rows, tokens]
    inside = torch.arange(side.shape[1], device=side.device) < lengths[:, None]
    return torch.where(inside, moved, 0.0).sum(1) / lengths


def safe_norm(squares: torch.Tensor) -> torch.Tensor:
    """The square root, with gradient 0 at 0: before training, the side memory changes nothing."""
    moved = squares > 0
    return torch.where(moved, squares.where(moved, 1.0).sqrt(), 0.0)


class ActivationRouter(ImmediateRouter):
    """Chooses, of the memories that reach their thresholds, the one with the largest activation.

    This is WISE Eq. 6 with Top-1 (section 2.3.3). Memories below their threshold are left out
    before the choice, so they cannot win against a memory above its threshold. Eq. 6 requires more
    than the threshold. Here, reaching it suffices: the threshold is the smallest activation over
    the edits, so otherwise the edit with that activation would never be answered.
    """

    def __init__(self, base: Base, memories: Sequence[Memory], ratio: float = 1.0) -> None:
        self._base = base
        self._deltas = torch.stack([memory.delta() for memory in memories]).to(base.device)
        self._thresholds = [memory.threshold * ratio for memory in memories]

    def propose(self, prompts: Sequence[Ids]) -> Proposal:
        inputs = projection_inputs(self._base, prompts)
        return Proposal(prompts, [self._decide(prompt_inputs) for prompt_inputs in inputs])

    def _decide(self, inputs: torch.Tensor) -> Decision:
        scores = [float(activation(inputs, delta)) for delta in self._deltas]
        # Thresholds were measured in batches, with the rounding of the dtype of the base.
        slack = max(ROUNDING, torch.finfo(self._base.model.dtype).eps)
        required = [threshold * (1 - slack) for threshold in self._thresholds]
        opened = [n for n, score in enumerate(scores) if score >= required[n]]
        loudest = max(opened or range(len(scores)), key=lambda memory: scores[memory])
        memory = loudest if opened else -1
        return Decision(memory, None, scores[loudest], self._thresholds[loudest])
