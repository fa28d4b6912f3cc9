"""The relation encoder: from the base's own states over a text to the direction of its question.

A small network reads the hidden states of two blocks of the frozen base at the last tokens of a
text. Texts that ask the same of their subject get similar directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from editors.errors import StateMismatch
from editors.inference.hidden_states import last_states
from editors.model.base_model import Base
from editors.model.tokenization import encode_prompts

TOKENS = 48  # the last of a text that are read
WIDTH = 192  # of the encoder
HEADS = 4  # of its attention
QUERIES = 8  # weighted means over the tokens
DIMENSIONS = 192  # of a direction
DROPOUT = 0.1
ENCODED_AT_ONCE = 64
_PREFIX = "encoder."


class RelationEncoder(nn.Module):
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

    @torch.inference_mode()
    def directions(self, states: Sequence[torch.Tensor]) -> torch.Tensor:
        """float32 ``[texts, DIMENSIONS]``; ``states``: for each text ``[tokens, width]``."""
        if not states:
            return torch.zeros(0, DIMENSIONS)
        self.eval()
        order = sorted(range(len(states)), key=lambda i: len(states[i]))
        parts = [
            self(*padded([states[i] for i in order[start : start + ENCODED_AT_ONCE]]))
            for start in range(0, len(order), ENCODED_AT_ONCE)
        ]
        found = torch.empty(len(states), DIMENSIONS)
        found[order] = torch.cat(parts)
        return found

    def tensors(self) -> dict[str, torch.Tensor]:
        """The parameters in float16, by name."""
        return {_PREFIX + name: value.half() for name, value in self.state_dict().items()}

    @staticmethod
    def from_tensors(tensors: Mapping[str, torch.Tensor]) -> RelationEncoder:
        """The encoder that :meth:`tensors` wrote; raises StateMismatch if a part is missing."""
        own = {
            name.removeprefix(_PREFIX): value.float()
            for name, value in tensors.items()
            if name.startswith(_PREFIX)
        }
        try:
            encoder = RelationEncoder(len(own["mean"]))
            encoder.load_state_dict(own)
        except (KeyError, RuntimeError) as error:
            raise StateMismatch(
                "the relation encoder of the scope cannot be read", "`editcli verify`"
            ) from error
        return encoder.eval()


def padded(states: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """States of several texts as one batch: float32 ``[texts, tokens, width]``, and bool ``[texts,
    tokens]``, False at pads."""
    batch = nn.utils.rnn.pad_sequence([of_text.float() for of_text in states], batch_first=True)
    lengths = torch.tensor([len(of_text) for of_text in states])
    return batch, torch.arange(batch.shape[1]) < lengths[:, None]


def layers_read(base: Base) -> list[int]:
    """The two blocks whose outputs are read: at a fifth and just below the middle of the base."""
    count = len(base.architecture.blocks)
    return sorted({max(0, count // 5 - 1), max(0, count * 7 // 15 - 1)})


def states_of(base: Base, texts: Sequence[str], layers: Sequence[int]) -> list[torch.Tensor]:
    """For each text, float16 ``[tokens, len(layers) * hidden]``: the states at its last
    ``TOKENS`` tokens."""
    context = base.architecture.context
    prompts = encode_prompts(base.tokenizer, texts)
    if context is not None:
        prompts = [ids[-context:] for ids in prompts]
    return last_states(base, prompts, layers, TOKENS)
