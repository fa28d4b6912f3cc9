"""What the unedited base makes of a prompt: states at the last token, and its next-token answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from editors.base import Base
from editors.hooks import changing_input, hidden_of, reading_inputs, reading_outputs
from editors.tokens import Row

ROWS_AT_ONCE = 512
ANSWERS_KEPT = 16  # next-token candidates kept of each prompt

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """``states``: float32 ``[n, layers, hidden]`` after each block asked for, at the last token.

    ``chances``: float32 ``[n, k]``, the ``k`` largest next-token probabilities, falling, and
    ``tokens``: int64 ``[n, k]``, whose they are.
    """

    states: torch.Tensor
    chances: torch.Tensor
    tokens: torch.Tensor


def look(base: Base, prompts: Sequence[Ids], layers: Sequence[int]) -> Look:
    """One pass of the base over ``prompts``, those of one length together (no pads).

    ``layers``: blocks whose output is kept. Whatever is attached must be on main memory.
    """
    states: list[torch.Tensor | None] = [None] * len(prompts)
    chances: list[torch.Tensor | None] = [None] * len(prompts)
    tokens: list[torch.Tensor | None] = [None] * len(prompts)
    for part, ids in same_length(base, prompts):
        kept: dict[int, torch.Tensor] = {}
        head = base.model.get_output_embeddings()
        with torch.inference_mode(), ExitStack() as stack:
            paths = {base.architecture.block(i).path: _keeping(kept, i) for i in layers}
            stack.enter_context(reading_outputs(base.model, paths))
            stack.enter_context(changing_input(head, lambda hidden: hidden[:, -1:]))
            logits = base.model(input_ids=ids, use_cache=False).logits[:, -1]
            top = logits.float().softmax(-1).topk(min(ANSWERS_KEPT, logits.shape[-1]), dim=-1)
        stacked = torch.stack([kept[layer] for layer in layers], 1) if layers else None
        for j, i in enumerate(part):
            states[i] = stacked[j] if stacked is not None else torch.empty(0, 0)
            chances[i], tokens[i] = top.values[j].cpu(), top.indices[j].cpu()
    return Look(
        torch.stack([s for s in states if s is not None]),
        torch.stack([c for c in chances if c is not None]),
        torch.stack([t for t in tokens if t is not None]),
    )


def _keeping(kept: dict[int, torch.Tensor], layer: int) -> Callable[[Any], None]:
    """A reader that keeps the last token's state under ``layer``."""

    def read(output: Any) -> None:
        kept[layer] = hidden_of(output)[:, -1].float().cpu()

    return read


def projection_inputs(base: Base, prompts: Sequence[Ids]) -> list[torch.Tensor]:
    """For each prompt, what the edited projection reads: float32 ``[tokens, in]``."""
    found: list[torch.Tensor | None] = [None] * len(prompts)
    for part, ids in same_length(base, prompts):
        kept: list[torch.Tensor] = []

        def read(args: tuple[Any, ...], _: dict[str, Any], kept: list[torch.Tensor] = kept) -> None:
            kept.append(args[0].float())

        with torch.inference_mode(), reading_inputs(base.model, {base.projection.path: read}):
            base.model(input_ids=ids, use_cache=False, logits_to_keep=1)
        for j, i in enumerate(part):
            found[i] = kept[0][j].clone()
    return [f for f in found if f is not None]


def overlap(
    chances: torch.Tensor,
    tokens: torch.Tensor,
    other_chances: torch.Tensor,
    other_tokens: torch.Tensor,
) -> torch.Tensor:
    """``[n]``: the probability that two next-token answers have in common; all inputs ``[n, k]``."""
    same = tokens[:, :, None] == other_tokens[:, None, :]  # [n, k, k]
    return (torch.minimum(chances[:, :, None], other_chances[:, None, :]) * same).sum((1, 2))


def same_length(base: Base, prompts: Sequence[Ids]) -> list[tuple[list[int], torch.Tensor]]:
    """Groups of prompts of one length: their indices, and int64 ids ``[rows, seq]``."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    groups = []
    for _, group in groupby(order, key=lambda i: len(prompts[i])):
        members = list(group)
        for start in range(0, len(members), ROWS_AT_ONCE):
            part = members[start : start + ROWS_AT_ONCE]
            rows = [Row(prompts[i], len(prompts[i])) for i in part]
            groups.append((part, base.batch(rows).ids))
    return groups
