"""The relation encoder that reads the base's own states.

A small network reads the hidden states of two blocks of the frozen base at the last tokens of a
text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from editors.errors import StateMismatch
from editors.inference.hidden_states import last_states
from editors.model.base_model import Base
from editors.model.tokenization import encode_prompts
from editors.scope.base import Settings, Tensors
from editors.scope.relation.asking import FILLER, MARK
from editors.scope.relation.encoders.base import load_saved, padded, saved

TOKENS = 48  # the last of a text that are read
WIDTH = 192  # of the network
HEADS = 4  # of its attention
QUERIES = 8  # weighted means over the tokens
DIMENSIONS = 192  # of a direction
DROPOUT = 0.1


class StatesEncoder:
    """Reads ``[tokens, layers * hidden]`` states of the base, in float16."""

    threshold: ClassVar[float] = 0.6
    recognised: ClassVar[float] = 0.88
    learning_rate: ClassVar[float] = 1e-3
    dimensions = DIMENSIONS

    def __init__(self, base: Base, layers: Sequence[int]) -> None:
        """``layers``: the blocks whose outputs are read."""
        self._base, self._layers = base, layers
        hidden = base.model.config.get_text_config(decoder=True).hidden_size
        self.trained = StatesHead(len(layers) * hidden)

    @classmethod
    def depends_on(cls, base: Base, settings: Settings) -> list[Any]:
        return [base.fingerprint()]

    @classmethod
    def untrained(cls, base: Base, settings: Settings) -> StatesEncoder:
        return cls(base, layers_read(base))

    @classmethod
    def from_tensors(cls, base: Base, tensors: Tensors) -> StatesEncoder:
        if "layers" not in tensors:
            raise StateMismatch("the calibration of the scope lacks 'layers'", "`editcli verify`")
        encoder = cls(base, tensors["layers"].tolist())
        load_saved(encoder.trained, tensors)
        return encoder

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"layers": torch.tensor(self._layers), **saved(self.trained)}

    def read(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """The states at the last ``TOKENS`` tokens of each text."""
        base, context = self._base, self._base.architecture.context
        prompts = encode_prompts(base.tokenizer, [text.replace(MARK, FILLER) for text in texts])
        if context is not None:
            prompts = [ids[-context:] for ids in prompts]
        return last_states(base, prompts, self._layers, TOKENS)

    def prepare(self, inputs: Sequence[torch.Tensor]) -> None:
        self.trained.standardise(torch.cat([*inputs]).float())

    def encode(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        found: torch.Tensor = self.trained(*padded([states.float() for states in inputs]))
        return found


class StatesHead(nn.Module):
    """Reads ``[texts, tokens, width]`` states, and gives float32 ``[texts, DIMENSIONS]`` directions
    of length 1."""

    def __init__(self, width: int) -> None:
        """``width``: of the states of all layers together."""
        super().__init__()
        self.mean: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.dropout = nn.Dropout(DROPOUT)
        self.inward = nn.Linear(width, WIDTH)
        self.places = nn.Embedding(TOKENS, WIDTH)  # counted from the end of the text
        self.attention = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 2 * WIDTH, DROPOUT, F.gelu, batch_first=True, norm_first=True
        )
        self.weights = nn.Linear(WIDTH, QUERIES)
        self.values = nn.Linear(WIDTH, WIDTH)
        self.joined = nn.Linear(2 * WIDTH, 2 * WIDTH)
        self.outward = nn.Linear(2 * WIDTH, DIMENSIONS)

    def standardise(self, states: torch.Tensor) -> None:
        """Take mean and scale from ``states`` ``[tokens, width]``."""
        self.mean.copy_(states.mean(0))
        self.scale.copy_(states.std(0) + 1e-3)

    def forward(self, states: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """``states``: float32 ``[texts, tokens, width]``; ``real``: bool ``[texts, tokens]``, False
        at pads."""
        read = (states - self.mean) / self.scale
        place = (real.sum(1, keepdim=True) - real.cumsum(1)).clamp(0, TOKENS - 1)
        hidden = self.inward(self.dropout(read)) + self.places(place)  # [texts, tokens, WIDTH]
        hidden = self.attention(hidden, src_key_padding_mask=~real)
        weights = self.weights(hidden).masked_fill(~real[..., None], -torch.inf).softmax(1)
        values = self.values(hidden).unflatten(-1, (QUERIES, -1))
        weighted = (weights[..., None] * values).sum(1).flatten(1)  # [texts, WIDTH]
        mean = (hidden * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        joined = F.gelu(self.joined(self.dropout(torch.cat([weighted, mean], -1))))
        return F.normalize(self.outward(joined), dim=-1)


def layers_read(base: Base) -> list[int]:
    """The two blocks whose outputs are read: at a fifth and just below the middle of the base."""
    count = len(base.architecture.blocks)
    return sorted({max(0, count // 5 - 1), max(0, count * 7 // 15 - 1)})
