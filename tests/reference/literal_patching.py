"""Path patching written plainly, to compare the library's with: one whole forward for each head.

Row by row, every attention output projection reads what it read in the original run, at every
position, but for one head at the last position, which comes from the corrupted run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def runs(model: Any, paths: Sequence[str], ids: Sequence[int]) -> tuple[list[Any], torch.Tensor]:
    """What each projection reads ``[seq, in]``, and the logits ``[vocab]`` after the last token."""
    read: list[Any] = []
    handles = [
        model.get_submodule(path).register_forward_pre_hook(
            lambda _, args: read.append(args[0].detach().reshape(len(ids), -1).clone())
        )
        for path in paths
    ]
    logits = last_logits(model, ids)
    for handle in handles:
        handle.remove()
    return read, logits


def last_logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """``[vocab]``: what the vocabulary projection writes at the last token."""
    seen: list[torch.Tensor] = []
    handle = model.get_output_embeddings().register_forward_hook(
        lambda _, args, out: seen.append(out.detach())
    )
    with torch.no_grad():
        model(input_ids=torch.tensor([list(ids)]), use_cache=False)
    handle.remove()
    return seen[0][0, -1]


def effect(
    model: Any,
    paths: Sequence[str],
    layer: int,
    features: slice,
    original: Sequence[int],
    corrupted: Sequence[int],
) -> torch.Tensor:
    """``[vocab]``: what all logits lose when the head at ``features`` of ``layer`` is patched."""
    kept, before = runs(model, paths, original)
    other, _ = runs(model, paths, corrupted)
    handles = []
    for number, path in enumerate(paths):
        forced = kept[number].clone()
        if number == layer:
            forced[-1, features] = other[number][-1, features]

        def force(_: Any, args: Any, forced: torch.Tensor = forced) -> Any:
            return (forced.view_as(args[0]), *args[1:])

        handles.append(model.get_submodule(path).register_forward_pre_hook(force))
    after = last_logits(model, original)
    for handle in handles:
        handle.remove()
    return before - after
