"""Pruning attention heads (PH3, arXiv 2402.18154): the output of a head is scaled or removed.

The output of a head is a slice of the features that the attention output projection of its layer
reads. So a change of the slice changes exactly what the head adds to the residual stream. No weight
changes, and neither does the bias of the projection, which belongs to no head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch

from editors.heads.pruning import At, Head, HeadMask
from editors.inference.calls import running_forward
from editors.model.base_model import Base, is_probing
from editors.model.hooks import InputReader, changing_input, reading_inputs
from editors.model.projection import Projection
from editors.model.tokenization import Ids


@contextmanager
def pruning_heads(base: Base, mask: HeadMask) -> Iterator[None]:
    """Inside ``with``, prune the heads of ``mask`` in all forwards except probing ones.

    A mask at the "end" of prompts needs forwards that belong to calls, as they do inside
    :func:`~editors.inference.edited_model.attached`.

    Raises:
        EditorError: there is no such layer or head.
        UnsupportedArchitecture: a layer has no separable heads.
    """
    with ExitStack() as stack:
        for layer in sorted({head.layer for head in mask.heads}):
            heads = [head for head in mask.heads if head.layer == layer]
            slices = {head: base.architecture.head_slice(*head) for head in heads}
            module = base.model.get_submodule(attention_out(base, layer).path)
            stack.enter_context(changing_input(module, partial(_changed, mask, slices)))
        yield


def attention_out(base: Base, layer: int) -> Projection:
    """The attention output projection of ``layer``, which must have one."""
    projection = base.architecture.block(layer).attention_out
    assert projection is not None
    return projection


def _changed(mask: HeadMask, slices: Mapping[Head, slice], inputs: torch.Tensor) -> torch.Tensor:
    """The ``inputs`` ``[..., in]`` of an attention output projection, with ``slices`` of them
    changed as ``mask`` says."""
    if is_probing():
        return inputs
    changed = inputs.clone()
    for head, features in slices.items():
        scaled = inputs[..., features] * mask.scale
        if head in mask.fill:
            scaled = scaled + (1 - mask.scale) * mask.fill[head].to(scaled)
        changed[..., features] = scaled
    if mask.at == "all":
        return changed
    forward = running_forward()
    assert forward is not None, "a mask at the end of prompts needs calls"
    answering = forward.from_prompt_ends(inputs.device)  # [rows, seq]
    if answering is None:
        return changed
    # Some blocks flatten the input of the projection to [rows * seq, in].
    return torch.where(answering.view(*inputs.shape[:-1], 1), changed, inputs)


def mean_fill(
    base: Base, heads: Sequence[Head], prompts: Sequence[Ids], at: At
) -> dict[Head, torch.Tensor]:
    """By head, float32 ``[head_dim]``: the mean output of the head over the tokens of ``prompts``.

    If ``at`` is "end", only the last token of each prompt counts. Mean ablation is a control for
    zero ablation: it keeps the activations in their usual range.
    """
    slices = {head: base.architecture.head_slice(*head) for head in heads}
    sums: dict[int, torch.Tensor] = {}  # by layer [in]

    def reader(layer: int) -> InputReader:
        def read(args: tuple[Any, ...], _: dict[str, Any]) -> None:
            if not is_probing():  # a router may run forwards meanwhile
                states = args[0].reshape(-1, args[0].shape[-1])  # [tokens, in] of one prompt
                counted = states[-1:] if at == "end" else states
                sums[layer] = sums.get(layer, 0) + counted.float().sum(0).cpu()

        return read

    readers = {attention_out(base, n).path: reader(n) for n in {head.layer for head in heads}}
    with torch.inference_mode(), reading_inputs(base.model, readers):
        for prompt in prompts:
            base.model(input_ids=torch.tensor([list(prompt)]).to(base.input_device))
    count = len(prompts) if at == "end" else sum(map(len, prompts))
    return {head: sums[head.layer][features] / count for head, features in slices.items()}
