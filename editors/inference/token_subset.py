"""Modules that work token by token, run at some tokens alone.

Pads tell nothing, and of a last block only some tokens are read: where leaving the others out costs
less than running them, they are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from editors.model.architecture import Block
from editors.model.hooks import StandIn
from editors.model.tokenization import Places

# Tokens that cost less than leaving them out, which takes kernels of its own.
SPARE = {"cpu": 0}
SPARE_ELSEWHERE = 2048


class AtPlaces(StandIn):
    """Runs a module that works token by token where it is of use; elsewhere it may give zeros."""

    def __init__(self, original: nn.Module, places: Callable[[], Places], spare: int) -> None:
        """``spare``: so many other places are run rather than left out."""
        super().__init__(original)
        object.__setattr__(self, "_places", places)
        object.__setattr__(self, "_spare", spare)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if len(args) == 1 and not kwargs else None
        if hidden is None or hidden.ndim != 3:  # more to read, or rows that the block flattened
            return self._original(*args, **kwargs)
        return at(self._places(), hidden, self._original, self._spare)


def at(places: Places, read: torch.Tensor, run: Callable[[torch.Tensor], Any], spare: int) -> Any:
    """What ``run`` makes of ``read`` ``[batch, seq, in]`` at ``places``, token by token.

    ``[batch, seq, out]``, elsewhere of no meaning; all of ``read`` is run where there are at most
    ``spare`` other places, or ``run`` gives no tensor.
    """
    rows, columns = on(read.device, places)
    if read.shape[0] * read.shape[1] - len(rows) <= spare:
        return run(read)
    part = run(read[rows, columns][None])  # [1, places, out]
    if not isinstance(part, torch.Tensor):
        return run(read)
    whole = part.new_zeros(*read.shape[:2], part.shape[-1])
    return whole.index_put((rows, columns), part[0])


def on(device: torch.device, places: Places) -> Places:
    """``places``, on ``device``."""
    rows, columns = places
    return rows.to(device), columns.to(device)


def spare_on(device: torch.device) -> int:
    """How many other tokens are run there rather than left out."""
    return SPARE.get(device.type, SPARE_ELSEWHERE)


def by_token(model: PreTrainedModel, block: Block) -> dict[str, bool]:
    """Paths of the block's modules that work token by token: its MLP, its attention's projections.

    With each whether what it gives for a token is of use to that token alone.
    """
    mlp = "" if block.mlp_down is None else block.mlp_down.path.rpartition(".")[0]
    own = {mlp: True} if mlp not in ("", block.path) else {}
    if block.attention is not None:
        attention = model.get_submodule(block.attention)
        # Where what is projected is convolved over time, a query is of use to later tokens too.
        apart = not any(isinstance(module, nn.Conv1d) for module in attention.modules())
        for name, module in attention.named_children():
            if isinstance(module, nn.Linear | Conv1D):  # others attend to keys and values
                own[f"{block.attention}.{name}"] = name == "q_proj" and apart
    if block.attention_out is not None:
        own[block.attention_out.path] = True
    return own
