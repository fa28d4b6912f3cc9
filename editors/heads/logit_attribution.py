"""Direct logit attribution: path patching with MLPs and the final norm frozen.

The rest of the model is linear. So the effects of single heads add up to the effect of patching
them together.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import torch

from editors.errors import UnsupportedArchitecture
from editors.heads import path_patching
from editors.heads.path_patching import Unit
from editors.inference.edited_model import EditedModel
from editors.model.architecture import vocabulary_projection
from editors.model.base_model import Base
from editors.model.hooks import reading_inputs, reading_outputs
from editors.model.tokenization import Batch

NORM_FIT_TOLERANCE = 0.02  # relative; above the rounding of bfloat16, below other maps


def direct_effects(
    model: EditedModel,
    original: Batch,
    corrupted: Batch,
    tokens: torch.Tensor,
    unit: Unit = "head",
) -> torch.Tensor:
    """``[layers, units, rows, tokens]``: the loss of each logit when a unit is patched.

    Arguments, units and dtypes are those of :func:`~editors.heads.path_patching.path_effects`. The
    effects of the heads of a group add up to the effect of the group.

    Raises:
        EditorError: the two batches have different numbers of rows.
        UnsupportedArchitecture: no block has separable heads; or a block does not simply add the
            output of its heads to the residual stream, as when a norm follows the attention; or no
            norm comes directly before the vocabulary projection.
    """
    base = model.base
    path = _final_norm(base, original.ids[:1, :1])
    norm_inputs: list[torch.Tensor] = []
    with reading_inputs(base.model, {path: lambda args, _: norm_inputs.append(args[0])}):
        original_run, corrupted_run = path_patching.runs(base, original, corrupted)
    states = path_patching.at_ends(original, norm_inputs[-1])  # [rows, hidden]
    frozen = _frozen(base.model.get_submodule(path), states)
    directions = path_patching.logit_directions(base, tokens)  # [rows, tokens, hidden]
    effects = path_patching.no_effects(base, tokens, unit)
    for layer in original_run.head_outputs:
        change = path_patching.patched_change(base, layer, original_run, corrupted_run, unit)
        normed = frozen(change.to(states.device)).to(directions)
        effects[layer] = -torch.einsum("ubd,btd->ubt", normed, directions).cpu()
    return effects


@torch.inference_mode()
def _final_norm(base: Base, ids: torch.Tensor) -> str:
    """The path of the module whose output the vocabulary projection reads.

    It is found in one forward over ``ids``, int64 ``[1, 1]``. In the same forward, each block must
    add to the residual stream the output of its heads and of at most one more module, the MLP.
    Raises UnsupportedArchitecture if there is no such module or a block does anything else.
    """
    inputs: dict[str, torch.Tensor] = {}
    outputs: dict[str, torch.Tensor] = {}

    def keeping(states_by_path: dict[str, torch.Tensor], path: str) -> Any:
        def keep(value: Any, kwargs: Any = None) -> None:
            states = value[0] if isinstance(value, tuple) and value else value
            if isinstance(states, torch.Tensor):  # a copy: some blocks add in place
                states_by_path[path] = states.to("cpu", torch.float64, copy=True).flatten()

        return keep

    paths = [path for path, _ in base.model.named_modules() if path]
    with (
        reading_inputs(base.model, {path: keeping(inputs, path) for path in paths}),
        reading_outputs(base.model, {path: keeping(outputs, path) for path in paths}),
        base.probing(),
    ):
        path_patching.forward(base, ids, torch.zeros_like(ids))
    vocabulary_input = inputs[vocabulary_projection(base.model)]
    norm = next(
        (path for path in outputs if path in inputs and outputs[path].equal(vocabulary_input)), None
    )
    if norm is None:
        raise UnsupportedArchitecture(
            "no module writes what the vocabulary projection reads, so no final norm can be frozen"
        )
    blocks = base.architecture.blocks
    stream = [*(inputs[block.path] for block in blocks), inputs[norm]]
    for block, (before, after) in zip(blocks, pairwise(stream), strict=True):
        outputs_inside = [v for path, v in outputs.items() if path.startswith(f"{block.path}.")]
        same_shape = [v for v in outputs_inside if v.shape == before.shape]
        heads = [outputs[block.attention_out.path]] if block.attention_out else same_shape
        pairs = product(heads, [*same_shape, torch.zeros_like(before)])
        if not any(_is_sum(base, after, (before, *pair)) for pair in pairs):
            raise UnsupportedArchitecture(
                f"{block.path} does more with what its heads write than to add it to the residual "
                "stream, so their direct effects are not defined; path effects are"
            )
    return norm


def _is_sum(base: Base, total: torch.Tensor, parts: tuple[torch.Tensor, ...]) -> bool:
    """Whether ``total`` is the sum of ``parts``, up to the rounding of additions in any order."""
    if any(part.shape != total.shape for part in parts):
        return False
    added = torch.stack(parts)
    slack = 2 * len(parts) * torch.finfo(base.model.dtype).eps * added.abs().sum(0)
    return bool(((added.sum(0) - total).abs() <= slack).all())


@torch.inference_mode()
def _frozen(norm: torch.nn.Module, states: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The norm as a linear map of changes ``[..., rows, hidden]``, with its scale fixed at the
    scale for ``states`` ``[rows, hidden]``.

    Three probe inputs show whether the norm centres, its bias and its gain. ``states`` show its
    scale. Raises UnsupportedArchitecture if these do not explain the output for ``states``.
    """
    probes = torch.ones(3, 1, states.shape[1], dtype=states.dtype, device=states.device)
    probes[0], probes[2, :, 1::2] = 0.0, -1.0
    bias, of_ones, of_signs = norm(probes)[:, 0]  # [hidden] each
    centring = bool((of_ones - bias).norm() < 0.1 * (of_signs - bias).norm())

    def centred(x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(-1, keepdim=True) if centring else x

    gain = (of_signs - bias) / centred(probes[2, 0])
    unscaled, normed = gain * centred(states), norm(states[:, None])[:, 0] - bias  # [rows, hidden]
    scale = (unscaled * normed).sum(-1, keepdim=True) / unscaled.square().sum(-1, keepdim=True)
    if bool((scale * unscaled - normed).norm() > NORM_FIT_TOLERANCE * normed.norm()):
        raise UnsupportedArchitecture(
            f"the {type(norm).__name__} before the vocabulary projection is no norm to be frozen"
        )
    return lambda change: scale * gain * centred(change)
