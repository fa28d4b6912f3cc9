"""Runs modules that work token by token at some tokens only.

Pads are skipped, and in the last block all tokens whose output is not used. Tokens are skipped only
where that is faster than running them.
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

# Up to this many tokens, running them is faster than skipping them, which needs extra kernels.
MAX_WASTED_TOKENS = {"cpu": 0}
MAX_WASTED_TOKENS_ELSEWHERE = 2048


class TokenSubset(StandIn):
    """Runs a module that works token by token at some tokens. The output at others is not used."""

    def __init__(
        self, original: nn.Module, index: Callable[[], TokenIndex], max_wasted: int
    ) -> None:
        """``index``: returns the tokens that count; ``max_wasted``: up to this many others are run
        rather than skipped."""
        super().__init__(original, _index=index, _max_wasted=max_wasted)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if len(args) == 1 and not kwargs else None
        if hidden is None or hidden.ndim != 3:  # several inputs, or flattened rows
            return self._original(*args, **kwargs)
        return run_at(self._index(), hidden, self._original, self._max_wasted)


def run_at(
    index: TokenIndex,
    inputs: torch.Tensor,
    run: Callable[[torch.Tensor], Any],
    max_wasted: int,
) -> Any:
    """``[rows, seq, out]``: the output of ``run``, which works token by token, at ``index``.

    ``inputs``: ``[rows, seq, in]``. The output at other tokens has no meaning. All tokens are run
    if at most ``max_wasted`` of them are not in ``index``, or if ``run`` does not return a tensor.
    """
    rows, columns = on(inputs.device, index)
    if inputs.shape[0] * inputs.shape[1] - len(rows) <= max_wasted:
        return run(inputs)
    output = run(inputs[rows, columns][None])  # [1, tokens, out]
    if not isinstance(output, torch.Tensor):
        return run(inputs)
    whole = output.new_zeros(*inputs.shape[:2], output.shape[-1])
    return whole.index_put((rows, columns), output[0])


def on(device: torch.device, index: TokenIndex) -> TokenIndex:
    """``index`` on ``device``."""
    return tuple(axis.to(device) for axis in index)


def max_wasted_on(device: torch.device) -> int:
    """The number of tokens that are run rather than skipped on ``device``."""
    return MAX_WASTED_TOKENS.get(device.type, MAX_WASTED_TOKENS_ELSEWHERE)


def tokenwise_modules(model: PreTrainedModel, block: Block) -> dict[str, bool]:
    """The paths of the modules of ``block`` that work token by token: its MLP, and the projections
    of its attention.

    By path: whether only the same token uses the module's output at a token.
    """
    mlp = "" if block.mlp_down is None else block.mlp_down.path.rpartition(".")[0]
    used_alone = {mlp: True} if mlp not in ("", block.path) else {}
    if block.attention is not None:
        attention = model.get_submodule(block.attention)
        # If projections are convolved over time, later tokens use a query too.
        alone = not any(isinstance(module, nn.Conv1d) for module in attention.modules())
        for name, module in attention.named_children():
            if isinstance(module, nn.Linear | Conv1D):  # other tokens attend to keys and values
                used_alone[f"{block.attention}.{name}"] = name == "q_proj" and alone
    if block.attention_out is not None:
        used_alone[block.attention_out.path] = True
    return used_alone
