"""atlas as plain functions, for training: what its heads write can be changed row by row.

Equal to the model's own forward where nothing is changed, but for rounding. Compiled, and in
float32, but that matrices are multiplied in bfloat16 where the CPU has AVX-512 instructions for it:
one core then trains on 7,700 tokens a second instead of 3,200.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

_CAPABILITIES = getattr(torch.cpu, "get_capabilities", dict)()  # not in older versions of torch
# What matrices are multiplied in.
PRODUCTS = torch.bfloat16 if _CAPABILITIES.get("avx512_bf16", False) else torch.float32
CLOSED = -1e9  # added to an attention score that is not to count
# Constants: the compiler makes slow code of shapes that it takes for variable.
HEADS, KV_HEADS, WIDTH = 8, 4, 24


@dataclass(frozen=True, slots=True)
class Changes:
    """What is changed in a batch.

    ``keep``: float32 ``[batch, layers, heads]``, the share of a head's output that stays;
    ``other``: the same shape, how much of the next row's output is put beside it; ``hidden``: bool
    ``[batch, seq]``, tokens that the lower half of the blocks does not read from ``behind``
    ``[batch]`` on.
    """

    keep: torch.Tensor
    other: torch.Tensor
    hidden: torch.Tensor
    behind: torch.Tensor


class Forward:
    """The model's parameters, and the functions that they go through."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self._model = model
        config = model.config
        self._half = config.num_hidden_layers // 2
        rotary = config.rope_parameters["rope_theta"]
        shape = (config.num_attention_heads, config.num_key_value_heads, config.head_dim)
        assert shape == (HEADS, KV_HEADS, WIDTH), shape
        self._turns = 1 / (rotary ** (torch.arange(0, WIDTH, 2) / WIDTH))  # [head_dim / 2]
        self._block = torch.compile(_block, dynamic=True)
        self._attend = torch.compile(_attend, dynamic=True)
        self._feed = torch.compile(_feed, dynamic=True)

    def logits(
        self, ids: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, changes: Changes
    ) -> torch.Tensor:
        """``[n, vocab]``: at ``rows``, ``columns`` of ``ids`` ``[batch, seq]``.

        Rows are padded on the right. The last block's MLP runs at those tokens only.
        """
        batch, length = ids.shape
        turns = torch.arange(length)[:, None] * self._turns
        turns = torch.cat((turns, turns), -1)  # [seq, head_dim]
        ahead = torch.full((length, length), CLOSED).triu(1)  # [query, key]
        upper = ahead.expand(batch, 1, length, length)
        unread = torch.arange(length) >= changes.behind[:, None]  # [batch, query]
        unread = unread[:, None, :, None] & changes.hidden[:, None, None, :]
        lower = upper + CLOSED * unread  # [batch, 1, query, key]
        x = self._model.model.embed_tokens(ids)  # [batch, seq, hidden]
        *layers, last = self._model.model.layers
        for number, layer in enumerate(layers):
            changed = changes.keep[:, number], changes.other[:, number]
            scores = lower if number < self._half else upper
            x = self._block(
                x, turns.cos(), turns.sin(), scores, *changed, *_attention(layer), *_mlp(layer)
            )
        changed = changes.keep[:, -1], changes.other[:, -1]
        x = self._attend(x, turns.cos(), turns.sin(), upper, *changed, *_attention(last))
        x = self._feed(x[rows, columns], *_mlp(last))  # [n, hidden]
        return _linear(_normed(x, self._model.model.norm.weight), self._model.lm_head.weight)


def _attention(layer: torch.nn.Module) -> tuple[torch.Tensor, ...]:
    own = layer.self_attn
    projections = (own.q_proj, own.k_proj, own.v_proj, own.o_proj)
    return (layer.input_layernorm.weight, *(p.weight for p in projections))


def _mlp(layer: torch.nn.Module) -> tuple[torch.Tensor, ...]:
    own = layer.mlp
    projections = (own.gate_proj, own.up_proj, own.down_proj)
    return (layer.post_attention_layernorm.weight, *(p.weight for p in projections))


def _normed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight


def _product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x.to(PRODUCTS) @ y.to(PRODUCTS)).float()


def _linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.linear(x.to(PRODUCTS), weight.to(PRODUCTS)).float()


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def _attend(x, cos, sin, scores, keep, other, norm, q, k, v, o):
    """``x`` ``[batch, seq, hidden]`` after attention; ``keep``, ``other`` ``[batch, heads]``."""
    batch, seq, _ = x.shape
    h = _normed(x, norm)
    queries = _turned(_linear(h, q).view(batch, seq, HEADS, WIDTH).transpose(1, 2), cos, sin)
    keys = _turned(_linear(h, k).view(batch, seq, KV_HEADS, WIDTH).transpose(1, 2), cos, sin)
    values = _linear(h, v).view(batch, seq, KV_HEADS, WIDTH).transpose(1, 2)
    share = HEADS // KV_HEADS
    keys, values = keys.repeat_interleave(share, 1), values.repeat_interleave(share, 1)
    alike = _product(queries, keys.transpose(-1, -2))  # [batch, heads, query, key]
    weights = torch.softmax(alike * WIDTH**-0.5 + scores, -1)
    written = _product(weights, values).transpose(1, 2)  # [batch, seq, heads, head_dim]
    written = written * keep[:, None, :, None] + written.roll(1, 0) * other[:, None, :, None]
    return x + _linear(written.flatten(-2), o)


def _feed(x, norm, gate, up, down):
    h = _normed(x, norm)
    return x + _linear(F.silu(_linear(h, gate)) * _linear(h, up), down)


def _block(x, cos, sin, scores, keep, other, norm, q, k, v, o, second, gate, up, down):
    x = _attend(x, cos, sin, scores, keep, other, norm, q, k, v, o)
    return _feed(x, second, gate, up, down)
