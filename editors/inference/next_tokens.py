"""What a model makes of the token after each prompt, reduced as it is made.

Logits of a whole vocabulary are never kept: each batch of them goes through ``reduce`` at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TypeVar

import torch

from editors.inference.batching import Budget, batches
from editors.inference.decisions import Decision
from editors.inference.edited_model import EditedModel
from editors.model.tokenization import Prompt, Row, encode_prompts

T = TypeVar("T")


@torch.inference_mode()
def after_prompts(
    model: EditedModel,
    prompts: Sequence[Prompt],
    reduce: Callable[[torch.Tensor, Sequence[int]], Sequence[T]],
) -> list[tuple[T, Decision | None]]:
    """For each prompt what ``reduce`` makes of its logits, and what was decided of it.

    ``reduce(logits, numbers)``: one result for each row of ``[rows, vocab]``, those of the prompts
    with these numbers. Prompts of one length go together, so that no row is padded.
    """
    base = model.base
    rewritten = model.rewritten(prompts)
    encoded = encode_prompts(base.tokenizer, [prompt for prompt, _ in rewritten])
    found: dict[int, tuple[T, Decision | None]] = {}
    budget = Budget(rows=512, pads=0, logits_per_row=base.vocabulary)
    for part in batches([len(ids) for ids in encoded], budget):
        batch = base.batch([Row.of_prompt(encoded[i]) for i in part])
        with model.noting() as calls:
            out = base.model(input_ids=batch.ids, use_cache=False, logits_to_keep=1)
        decisions = model.decisions(calls)
        for row, value in enumerate(reduce(out.logits[:, -1], part)):
            i = part[row]
            found[i] = value, rewritten[i][1] or (decisions[row] if decisions else None)
    return [found[i] for i in range(len(prompts))]


def likeliest(model: EditedModel, prompts: Sequence[Prompt]) -> list[int]:
    """The likeliest token after each prompt."""
    found = after_prompts(model, prompts, lambda logits, _: logits.argmax(-1).tolist())
    return [token for token, _ in found]


def distributions(model: EditedModel, prompts: Sequence[Prompt]) -> torch.Tensor:
    """float32 ``[prompts, vocab]``, in main memory: the next-token distribution after each."""
    found = after_prompts(model, prompts, lambda logits, _: [*logits.float().softmax(-1).cpu()])
    return torch.stack([distribution for distribution, _ in found])


def digests(model: EditedModel, prompts: Sequence[Prompt]) -> list[bytes]:
    """A digest of the logits after each prompt: equal for logits that are equal bit for bit."""

    def digest(logits: torch.Tensor, _: Sequence[int]) -> list[bytes]:
        rows = logits.contiguous().cpu().view(torch.uint8).numpy()  # [rows, bytes]
        return [blake2b(row.data, digest_size=16).digest() for row in rows]

    return [found for found, _ in after_prompts(model, prompts, digest)]
