"""Runs modules that work token by token at some of the tokens only.

Padding is skipped, and so is, in the last block that matters, every token whose output is not used,
where skipping costs less than running them.
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
from editors.model.tokenization import TokenIndex

# Tokens that cost less to run than to skip, which takes kernels of its own.
MAX_WASTED_TOKENS = {"cpu": 0}
MAX_WASTED_TOKENS_ELSEWHERE = 2048


class TokenSubset(StandIn):
    """Runs a module that works token by token at some tokens; the output elsewhere is not used."""

    def __init__(
        self, original: nn.Module, index: Callable[[], TokenIndex], max_wasted: int
    ) -> None:
        """``index``: the tokens that count; ``max_wasted``: so many others are run, not skipped."""
        super().__init__(original)
        object.__setattr__(self, "_index", index)
        object.__setattr__(self, "_max_wasted", max_wasted)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if len(args) == 1 and not kwargs else None
        if hidden is None or hidden.ndim != 3:  # more inputs, or rows that the block flattened
            return self._original(*args, **kwargs)
        return run_at(self._index(), hidden, self._original, self._max_wasted)


def run_at(
    index: TokenIndex,
    inputs: torch.Tensor,
    run: Callable[[torch.Tensor], Any],
    max_wasted: int,
) -> Any:
    """What ``run`` makes of ``inputs`` ``[rows, seq, in]`` at ``index``, token by token.

    ``[rows, seq, out]``, without meaning elsewhere. All of ``inputs`` is run where at most
    ``max_wasted`` tokens are not in ``index``, or where ``run`` gives no tensor.
    """
    rows, columns = on(inputs.device, index)
    if inputs.shape[0] * inputs.shape[1] - len(rows) <= max_wasted:
        return run(inputs)
    part = run(inputs[rows, columns][None])  # [1, tokens, out]
    if not isinstance(part, torch.Tensor):
        return run(inputs)
    whole = part.new_zeros(*inputs.shape[:2], part.shape[-1])
    return whole.index_put((rows, columns), part[0])


def on(device: torch.device, index: TokenIndex) -> TokenIndex:
    """``index``, on ``device``."""
    rows, columns = index
    return rows.to(device), columns.to(device)


def max_wasted_on(device: torch.device) -> int:
    """How many tokens that do not count are run there, not skipped."""
    return MAX_WASTED_TOKENS.get(device.type, MAX_WASTED_TOKENS_ELSEWHERE)


def tokenwise_modules(model: PreTrainedModel, block: Block) -> dict[str, bool]:
    """Paths of the block's modules that work token by token: its MLP, its attention's projections.

    Each with whether its output at a token is of use to that token alone.
    """
    mlp = "" if block.mlp_down is None else block.mlp_down.path.rpartition(".")[0]
    found = {mlp: True} if mlp not in ("", block.path) else {}
    if block.attention is not None:
        attention = model.get_submodule(block.attention)
        # Where what is projected is convolved over time, later tokens use a query too.
        alone = not any(isinstance(module, nn.Conv1d) for module in attention.modules())
        for name, module in attention.named_children():
            if isinstance(module, nn.Linear | Conv1D):  # other tokens attend to keys and values
                found[f"{block.attention}.{name}"] = name == "q_proj" and alone
    if block.attention_out is not None:
        found[block.attention_out.path] = True
    return found
