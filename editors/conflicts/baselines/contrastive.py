"""Context-aware decoding: answers that lean towards the context, or towards memory.

A prompt with a context and the same question without it are continued together. The next token is
chosen by the logits ``(1 + alpha) * with - alpha * without`` (CAD: Shi et al., NAACL 2024, arXiv
2305.14739). AdaCAD (Wang et al., NAACL 2025, arXiv 2409.07394) sets ``alpha`` to the divergence of
the two next-token distributions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from editors.errors import EditorError
from editors.inference.edited_model import EditedModel
from editors.inference.generation import Answer, paired_answers


def contrastive_answers(
    model: EditedModel,
    prompts: Sequence[str],
    questions: Sequence[str],
    max_new_tokens: int,
    alpha: float | None,
) -> list[Answer]:
    """The greedy answer to each prompt, contrasted with its question alone.

    ``prompts[i]`` is a context and the question ``questions[i]``. ``alpha`` above 0 leans towards
    the context, below 0 towards memory. 0 gives the answers to the prompts, -1 the answers to the
    questions. None is AdaCAD: alpha is set for each token of each row. Logits are those that the
    model returns, after any soft cap.

    Raises:
        EditorError: there are not as many questions as prompts, or ``alpha`` is below -1.
    """
    if alpha is not None and not alpha >= -1:
        raise EditorError(
            f"the weight {alpha} of the context is below -1, which is no context at all",
            "-1 for memory, 0 for the model as it is, 1 for the context",
        )

    def contrasted(informed: torch.Tensor, alone: torch.Tensor) -> torch.Tensor:
        weight = adaptive_weight(informed, alone)[:, None] if alpha is None else alpha
        return (1 + weight) * informed - weight * alone

    return paired_answers(model, prompts, questions, max_new_tokens, contrasted)


def adaptive_weight(informed: torch.Tensor, alone: torch.Tensor) -> torch.Tensor:
    """``[rows]``: the alpha of AdaCAD, the Jensen-Shannon divergence of the two next-token
    distributions, in nats (0 to ln 2).

    ``informed``, ``alone``: logits ``[rows, vocab]`` with the context and without it.
    """

    def entropy(distribution: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = torch.special.entr(distribution).sum(-1)
        return total

    p, q = informed.softmax(-1), alone.softmax(-1)
    # As a difference of entropies, whose terms are 0 for a probability of 0.
    return entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
