"""The next token after each prompt: likeliest tokens, distributions, digests of logits.

Logits of a whole vocabulary take much memory, so each batch of them is reduced immediately.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TypeVar

import torch

from editors.inference.batching import Budget
from editors.inference.decisions import Decision
from editors.inference.edited_model import EditedModel
from editors.model.tokenization import Batch, Prompt

T = TypeVar("T")

# Prompts that differ little in length share a forward: a few pads take less time than another one.
PADS = 64
MAX_ENDS = 12  # so many different lengths have room among the pads: 0 + 1 + ... + 11 > PADS
TOKENS_AT_ONCE = 1024


def after_prompts(
    model: EditedModel,
    prompts: Sequence[Prompt],
    reduce: Callable[[torch.Tensor, Sequence[int]], Sequence[T]],
) -> list[tuple[T, Decision | None]]:
    """For each prompt the result of ``reduce``, and the decision on the prompt.

    ``reduce(logits, numbers)``: one result for each row of ``logits`` ``[rows, vocab]``, which are
    the next-token logits of the prompts with these ``numbers``. Prompts of equal length go through
    the model together, so that no row is padded. The decision is None without a router or rewriter.

    Raises:
        PromptTooLong: a prompt is longer than the context of the model.
        EditorError: a prompt cannot be encoded.
    """

    def run(batch: Batch, numbers: Sequence[int]) -> Sequence[T]:
        out = model.base.model(input_ids=batch.ids, use_cache=False, logits_to_keep=1)
        return reduce(out.logits[:, -1], numbers)

    budget = Budget(rows=512, pads=0, logits_per_row=model.base.vocabulary)
    return model.run([prompts], budget, run)


def likeliest(model: EditedModel, prompts: Sequence[Prompt]) -> list[int]:
    """The id of the likeliest token after each prompt.

    Prompts of similar length go through the model together, padded on the right. Raises the errors
    of :func:`after_prompts`.
    """

    def run(batch: Batch, _: Sequence[int]) -> list[int]:
        ends = batch.prompt_lengths - 1
        columns, at = torch.unique(ends, return_inverse=True)
        out = model.base.model(input_ids=batch.ids, use_cache=False, logits_to_keep=columns)
        likely = out.logits.argmax(-1).cpu()  # [rows, ends]
        tokens: list[int] = likely.gather(1, at.cpu()[:, None])[:, 0].tolist()
        return tokens

    vocabulary = model.base.vocabulary
    budget = Budget(tokens=TOKENS_AT_ONCE, pads=PADS, logits_per_row=vocabulary * MAX_ENDS)
    return [token for token, _ in model.run([prompts], budget, run, side="right")]


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
