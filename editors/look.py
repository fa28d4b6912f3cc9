"""What a model makes of a prompt: its states, block by block, and its logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any

import torch

from editors.base import Base
from editors.hooks import hidden_of, reading_inputs, reading_outputs
from editors.tokens import Row, encode_prompt

ROWS_AT_ONCE = 512

Ids = tuple[int, ...]


class _Seen(Exception):  # noqa: N818 - no error: all that was asked for has been seen
    """Ends a forward after the last block that is read."""


def last_states(
    base: Base,
    prompts: Sequence[Ids],
    layers: Sequence[int],
    keep: Callable[[torch.Tensor], torch.Tensor] = torch.clone,
) -> torch.Tensor:
    """float32 ``[n, layers, hidden]``: after each of ``layers`` (rising), at the last token.

    Prompts of one length go together, so that no row is padded; blocks above the last of
    ``layers`` do not run. Whatever is attached must be on main memory. ``keep``: what is kept of
    the states ``[rows, layers, hidden]`` of some prompts, row by row, in their place.
    """
    return torch.stack(
        _states(base, prompts, layers, slice(-1, None), lambda states: keep(states[:, 0]))
    )


def all_states(base: Base, prompt: Ids, layers: Sequence[int]) -> torch.Tensor:
    """float32 ``[tokens, layers, hidden]``: :func:`last_states` of every beginning of ``prompt``.

    A state sees what is before it alone, so that one forward gives them all.
    """
    return _states(base, [prompt], layers, slice(None), torch.clone)[0]


def _states(
    base: Base,
    prompts: Sequence[Ids],
    layers: Sequence[int],
    places: slice,
    keep: Callable[[torch.Tensor], torch.Tensor],
) -> list[torch.Tensor]:
    found: dict[int, torch.Tensor] = {}
    for part, ids in same_length(base, prompts):
        kept: list[torch.Tensor] = []
        reader = _keeping(kept, len(layers), places)
        readers = {base.architecture.block(i).path: reader for i in layers}
        with torch.inference_mode(), reading_outputs(base.model, readers), suppress(_Seen):
            base.model(input_ids=ids, use_cache=False)
        found.update(zip(part, keep(torch.stack(kept, 2)), strict=True))
    return [found[i] for i in range(len(prompts))]


@torch.inference_mode()
def last_logits(
    base: Base,
    prompts: Sequence[str],
    keep: Callable[[torch.Tensor], torch.Tensor] = torch.clone,
) -> list[torch.Tensor]:
    """For each prompt the logits ``[vocab]`` after its last token, through whatever is attached.

    ``keep``: what is kept of the logits ``[rows, vocab]`` of some prompts, row by row.
    """
    encoded = [encode_prompt(base.tokenizer, prompt) for prompt in prompts]
    found: dict[int, torch.Tensor] = {}
    for part, ids in same_length(base, encoded):
        logits = base.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        found.update(zip(part, keep(logits), strict=True))
    return [found[i] for i in range(len(prompts))]


def _keeping(kept: list[torch.Tensor], wanted: int, places: slice) -> Callable[[Any], None]:
    """A reader that keeps the states at ``places``, and ends the forward at the last one wanted."""

    def read(output: Any) -> None:
        kept.append(hidden_of(output)[:, places].float().cpu())
        if len(kept) == wanted:
            raise _Seen

    return read


def projection_inputs(base: Base, prompts: Sequence[Ids]) -> list[torch.Tensor]:
    """For each prompt, what the edited projection reads: float32 ``[tokens, in]``."""
    found: dict[int, torch.Tensor] = {}
    for part, ids in same_length(base, prompts):
        kept: list[torch.Tensor] = []
        readers = {base.anchor.path: _keeping_inputs(kept)}
        with torch.inference_mode(), reading_inputs(base.model, readers), suppress(_Seen):
            base.model(input_ids=ids, use_cache=False)
        # Some blocks flatten what their MLP reads to [batch * seq, in].
        for i, inputs in zip(part, kept[0].view(*ids.shape, -1), strict=True):
            found[i] = inputs.clone()
    return [found[i] for i in range(len(prompts))]


def _keeping_inputs(kept: list[torch.Tensor]) -> Callable[[tuple[Any, ...], dict[str, Any]], None]:
    def read(args: tuple[Any, ...], _: dict[str, Any]) -> None:
        kept.append(args[0].float())
        raise _Seen

    return read


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
