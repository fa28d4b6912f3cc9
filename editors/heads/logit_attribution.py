"""Direct logit attribution: path patching with MLPs and the final norm frozen.

What is left is linear, so the effects of all heads add up to the effect of patching them together.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import torch

from editors.errors import UnsupportedArchitecture
from editors.heads.path_patching import (
    Unit,
    at_ends,
    forward,
    logit_directions,
    no_effects,
    patched_change,
    runs,
)
from editors.inference.edited_model import EditedModel
from editors.model.architecture import vocabulary_projection
from editors.model.base_model import Base
from editors.model.hooks import reading_inputs, reading_outputs
from editors.model.tokenization import Batch

NORM_FIT_TOLERANCE = 0.02  # relative; bfloat16 rounding stays below it, another map does not


def direct_effects(
    model: EditedModel,
    original: Batch,
    corrupted: Batch,
    tokens: torch.Tensor,
    unit: Unit = "head",
) -> torch.Tensor:
    """float32 ``[layers, units, rows, tokens]``: what each logit loses when a head is patched.

    Arguments as of :func:`~editors.heads.path_patching.path_effects`. The effects of a group's
    heads add up to the group's.

    Raises:
        EditorError, UnsupportedArchitecture: as ``path_effects``.
        UnsupportedArchitecture: a block does more with what its heads write than to add it, as
            where a norm follows the attention, or no norm comes right before the vocabulary.
    """
    base = model.base
    path = _final_norm(base, original.ids[:1, :1])
    read: list[torch.Tensor] = []
    with reading_inputs(base.model, {path: lambda args, _: read.append(args[0])}):
        here, there = runs(base, original, corrupted)
    states = at_ends(original, read[-1])  # [rows, hidden]
    frozen = _frozen(base.model.get_submodule(path), states)
    directions = logit_directions(base, tokens)  # [rows, tokens, hidden]
    effects = no_effects(base, tokens, unit)
    for layer in here.head_outputs:
        change = patched_change(base, layer, here, there, unit)
        moved = frozen(change.to(states.device)).to(directions)
        effects[layer] = -torch.einsum("ubd,btd->ubt", moved, directions).cpu()
    return effects


@torch.inference_mode()
def _final_norm(base: Base, ids: torch.Tensor) -> str:
    """The path of the module that writes what the vocabulary projection reads.

    ``ids``: int64 ``[1, 1]``, one token to find it with. It also shows whether from each block to
    the next the residual stream gains what the heads wrote and what one more module, the MLP, did.
    Raises UnsupportedArchitecture where it does not.
    """
    read: dict[str, torch.Tensor] = {}
    wrote: dict[str, torch.Tensor] = {}

    def keeping(found: dict[str, torch.Tensor], path: str) -> Any:
        def keep(value: Any, kwargs: Any = None) -> None:
            states = value[0] if isinstance(value, tuple) and value else value
            if isinstance(states, torch.Tensor):  # a copy: some blocks add in place
                found[path] = states.to("cpu", torch.float64, copy=True).flatten()

        return keep

    paths = [path for path, _ in base.model.named_modules() if path]
    with (
        reading_inputs(base.model, {path: keeping(read, path) for path in paths}),
        reading_outputs(base.model, {path: keeping(wrote, path) for path in paths}),
        base.probing(),
    ):
        forward(base, ids, torch.zeros_like(ids))
    last = read[vocabulary_projection(base.model)]
    norm = next((path for path in wrote if path in read and wrote[path].equal(last)), None)
    if norm is None:
        raise UnsupportedArchitecture(
            "no module writes what the vocabulary projection reads, so no final norm can be frozen"
        )
    blocks = base.architecture.blocks
    stream = [*(read[block.path] for block in blocks), read[norm]]
    for block, (before, after) in zip(blocks, pairwise(stream), strict=True):
        inside = [v for path, v in wrote.items() if path.startswith(f"{block.path}.")]
        rest = [v for v in inside if v.shape == before.shape]
        heads = [wrote[block.attention_out.path]] if block.attention_out else rest
        pairs = product(heads, [*rest, torch.zeros_like(before)])
        if not any(_is_sum(base, after, (before, *pair)) for pair in pairs):
            raise UnsupportedArchitecture(
                f"{block.path} does more with what its heads write than to add it to the residual "
                "stream, so their direct effects are not defined; path effects are"
            )
    return norm


def _is_sum(base: Base, total: torch.Tensor, parts: tuple[torch.Tensor, ...]) -> bool:
    """Up to the rounding of as many additions, whatever the order."""
    if any(part.shape != total.shape for part in parts):
        return False
    added = torch.stack(parts)
    slack = 2 * len(parts) * torch.finfo(base.model.dtype).eps * added.abs().sum(0)
    return bool(((added.sum(0) - total).abs() <= slack).all())


@torch.inference_mode()
def _frozen(norm: torch.nn.Module, states: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """What the norm makes of changes ``[..., rows, hidden]`` if its scale stays as at ``states``.

    ``states``: ``[rows, hidden]``. Three inputs show whether the norm centres, its bias and its
    gain; ``states`` shows its scale. Raises UnsupportedArchitecture where these do not explain what
    the norm does to ``states``.
    """
    probes = torch.ones(3, 1, states.shape[1], dtype=states.dtype, device=states.device)
    probes[0], probes[2, :, 1::2] = 0.0, -1.0
    bias, ones, signs = norm(probes)[:, 0]  # [hidden] each
    centring = bool((ones - bias).norm() < 0.1 * (signs - bias).norm())

    def centred(x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(-1, keepdim=True) if centring else x

    gain = (signs - bias) / centred(probes[2, 0])
    unscaled, found = gain * centred(states), norm(states[:, None])[:, 0] - bias  # [rows, hidden]
    scale = (unscaled * found).sum(-1, keepdim=True) / unscaled.square().sum(-1, keepdim=True)
    if bool((scale * unscaled - found).norm() > NORM_FIT_TOLERANCE * found.norm()):
        raise UnsupportedArchitecture(
            f"the {type(norm).__name__} before the vocabulary projection is no norm to be frozen"
        )
    return lambda change: scale * gain * centred(change)
