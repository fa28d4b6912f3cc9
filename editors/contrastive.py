"""Context-aware decoding: an answer that leans to what its context says, or to what memory says.

Two prompts that ask the same, one with a context and one without, are continued together. The next
token is chosen from ``(1 + alpha) * with - alpha * without``, their logits combined (CAD: Shi et
al., NAACL 2024, arXiv 2305.14739). AdaCAD (Wang et al., NAACL 2025, arXiv 2409.07394) takes for
``alpha`` how far the two next-token distributions are apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from editors.base import Base
from editors.errors import EditorError
from editors.generation import ROWS_AT_ONCE, Answer, pad, read
from editors.tokens import Row, encode_prompt

Merge = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""One ``[rows, vocab]`` of next-token logits from those of two prompts for each row."""


def contrastive_answers(
    base: Base,
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

    return paired_answers(base, prompts, questions, max_new_tokens, contrasted)


def adaptive_weight(informed: torch.Tensor, alone: torch.Tensor) -> torch.Tensor:
    """``[rows]``: the Jensen-Shannon divergence of two distributions, in nats (0 to ln 2).

    ``informed``, ``alone``: logits ``[rows, vocab]`` with the context and without it (AdaCAD).
    """
    p, q = informed.softmax(-1), alone.softmax(-1)
    # From entropies, whose terms are 0 where a probability is: no logarithm of 0.
    return _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2


@torch.inference_mode()
def paired_answers(
    base: Base, ones: Sequence[str], others: Sequence[str], max_new_tokens: int, merge: Merge
) -> list[Answer]:
    """One greedy answer to each pair of prompts, both continued by the token chosen for the two.

    ``merge(of_ones, of_others)``: the logits ``[rows, vocab]``, float32, to choose from. In a
    batch the ones are its first half and the others, in the same order, its second: each forward
    is two runs. Pairs whose longer prompt is of one length are answered together, so that padding,
    on the left of the shorter, depends on the pair alone.

    Raises:
        EditorError: there are not as many ones as others.
    """
    if len(ones) != len(others):
        raise EditorError(
            f"{len(ones)} prompts cannot be paired with {len(others)}", "give one for each"
        )
    first, second = (
        [Row(ids, len(ids)) for ids in (encode_prompt(base.tokenizer, text) for text in texts)]
        for texts in (ones, others)
    )
    longer = [max(len(a.ids), len(b.ids)) for a, b in zip(first, second, strict=True)]
    order = sorted(range(len(ones)), key=longer.__getitem__)
    found: dict[int, Answer] = {}
    for length, group in groupby(order, key=longer.__getitem__):
        same_length = list(group)
        for start in range(0, len(same_length), ROWS_AT_ONCE // 2):
            part = same_length[start : start + ROWS_AT_ONCE // 2]
            batch = base.batch([*(first[i] for i in part), *(second[i] for i in part)], side="left")
            out = base.model.generate(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                pad_token_id=pad(base),
                logits_processor=[_InStep(merge)],
            )
            for i, ids in zip(part, out[: len(part), length:].tolist(), strict=True):
                found[i] = read(base, ids)
    return [found[i] for i in range(len(ones))]


@dataclass(frozen=True, slots=True)
class _InStep:
    """Gives both halves of a batch the same logits, so that they go on by the same token."""

    merge: Merge

    def __call__(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return self.merge(*logits.chunk(2)).repeat(2, 1)  # [2 * rows, vocab]


def _entropy(probabilities: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = torch.special.entr(probabilities).sum(-1)
    return found
