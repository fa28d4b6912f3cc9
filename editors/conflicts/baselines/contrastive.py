"""Context-aware decoding: an answer that leans to what its context says, or to what memory says.

Two prompts that ask the same, one with a context and one without, are continued together. The next
token is chosen from ``(1 + alpha) * with - alpha * without``, their logits combined (CAD: Shi et
al., NAACL 2024, arXiv 2305.14739). AdaCAD (Wang et al., NAACL 2025, arXiv 2409.07394) takes for
``alpha`` how far the two next-token distributions are apart.
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
    """The greedy answer to each prompt, against what its question alone would be answered.

    ``prompts[i]`` is a context and the question ``questions[i]``. ``alpha`` above 0 leans to the
    context, below 0 to memory; 0 answers the prompts and -1 the questions; None adapts it at every
    token of every row. Logits are those that the model returns, after any soft cap.

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
    """``[rows]``: the Jensen-Shannon divergence of two distributions, in nats (0 to ln 2).

    ``informed``, ``alone``: logits ``[rows, vocab]`` with the context and without it (AdaCAD).
    """
    p, q = informed.softmax(-1), alone.softmax(-1)
    # From entropies, whose terms are 0 where a probability is: no logarithm of 0.
    return _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2


def _entropy(probabilities: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = torch.special.entr(probabilities).sum(-1)
    return found
