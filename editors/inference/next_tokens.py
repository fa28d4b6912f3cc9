"""The next token after each prompt: likeliest tokens, distributions, digests of logits.

Logits of a whole vocabulary take much memory, so each batch of them is reduced immediately.
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
    """For each prompt the result of ``reduce``, and the decision on the prompt.

    ``reduce(logits, numbers)``: one result for each row of ``logits`` ``[rows, vocab]``, which are
    the next-token logits of the prompts with these ``numbers``. Prompts of equal length go through
    the model together, so that no row is padded. The decision is None without a router or rewriter.
    """
    base = model.base
    rewritten = model.rewritten(prompts)
    encoded = encode_prompts(base.tokenizer, [prompt for prompt, _ in rewritten])
    results: dict[int, tuple[T, Decision | None]] = {}
    budget = Budget(rows=512, pads=0, logits_per_row=base.vocabulary)
    for members in batches([len(ids) for ids in encoded], budget):
        batch = base.batch([Row.of_prompt(encoded[i]) for i in members])
        with model.noting() as calls:
            out = base.model(input_ids=batch.ids, use_cache=False, logits_to_keep=1)
        decisions = model.decisions(calls)
        for row, value in enumerate(reduce(out.logits[:, -1], members)):
            i = members[row]
            results[i] = value, rewritten[i][1] or (decisions[row] if decisions else None)
    return [results[i] for i in range(len(prompts))]


def likeliest(model: EditedModel, prompts: Sequence[Prompt]) -> list[int]:
    """The id of the likeliest token after each prompt."""
    results = after_prompts(model, prompts, lambda logits, _: logits.argmax(-1).tolist())
    return [token for token, _ in results]


def distributions(model: EditedModel, prompts: Sequence[Prompt]) -> torch.Tensor:
    """float32 ``[prompts, vocab]``, on the CPU: the next-token distribution after each prompt."""
    results = after_prompts(model, prompts, lambda logits, _: [*logits.float().softmax(-1).cpu()])
    return torch.stack([distribution for distribution, _ in results])


def probabilities_of(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """float32 ``[rows]``, on the CPU: the probability of each row's token (``tokens``, int64
    ``[rows]``, on the CPU). ``logits``: ``[rows, vocab]``."""
    return logits.float().softmax(-1).cpu().gather(1, tokens[:, None])[:, 0]


def digests(model: EditedModel, prompts: Sequence[Prompt]) -> list[bytes]:
    """A digest of the logits after each prompt. Digests are equal if logits are, bit for bit."""

    def digest(logits: torch.Tensor, _: Sequence[int]) -> list[bytes]:
        rows = logits.contiguous().cpu().view(torch.uint8).numpy()  # [rows, bytes]
        return [blake2b(row.data, digest_size=16).digest() for row in rows]

    return [value for value, _ in after_prompts(model, prompts, digest)]
