"""What all relation encoders have in common.

Texts that ask the same of their subject get similar directions. In a text, ``MARK`` stands for the
subject.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from editors.errors import StateMismatch
from editors.model.base_model import Base
from editors.scope.base import Settings, Tensors

ENCODED_AT_ONCE = 64
_PREFIX = "encoder."


class RelationEncoder(Protocol):
    """Gives texts their directions: float32 ``[texts, dimensions]``, of length 1."""

    threshold: ClassVar[float]
    """On cosine: a prompt asks a fact's question if the direction of the prompt is nearer than this
    to one of the fact's."""
    recognised: ClassVar[float]
    """On cosine: a fact's prompt asks the question of a relation if it is nearer than this to the
    mean direction of the relation."""
    learning_rate: ClassVar[float]

    @property
    def trained(self) -> nn.Module:
        """The module that training changes, and that is saved."""

    @property
    def dimensions(self) -> int: ...

    @classmethod
    def depends_on(cls, base: Base, settings: Settings) -> list[Any]:
        """What a trained encoder depends on besides the corpus, as plain JSON."""

    @classmethod
    def untrained(cls, base: Base, settings: Settings) -> RelationEncoder:
        """A new encoder; raises EditorError if something that it needs is missing."""

    @classmethod
    def from_tensors(cls, base: Base, tensors: Tensors) -> RelationEncoder:
        """The encoder whose :meth:`tensors` these are; raises StateMismatch if a part is
        missing."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """What has to be saved of the encoder."""

    def read(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """What :meth:`encode` takes of each text; its first axis counts tokens. Does not change
        with training."""

    def prepare(self, inputs: Sequence[torch.Tensor]) -> None:
        """See a sample of what will be encoded, before training."""

    def encode(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The directions of texts that were read; differentiable."""


@torch.inference_mode()
def encoded(encoder: RelationEncoder, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """The directions of texts that were read, in batches of like length."""
    found = torch.zeros(len(inputs), encoder.dimensions)
    order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
    encoder.trained.eval()
    for start in range(0, len(order), ENCODED_AT_ONCE):
        members = order[start : start + ENCODED_AT_ONCE]
        found[members] = encoder.encode([inputs[i] for i in members])
    return found


def directions(encoder: RelationEncoder, texts: Sequence[str]) -> torch.Tensor:
    """The directions of ``texts``; each different text is read once."""
    different = list(dict.fromkeys(texts))
    found = encoded(encoder, encoder.read(different))
    number = {text: i for i, text in enumerate(different)}
    return found[[number[text] for text in texts]]


def saved(module: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters of ``module`` in float16, by the names under which they are saved."""
    return {_PREFIX + name: value.half() for name, value in module.state_dict().items()}


def load_saved(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put the parameters that :func:`saved` wrote into ``module``; raises StateMismatch if
    they are not those of such a module."""
    own = {
        name.removeprefix(_PREFIX): value.float()
        for name, value in tensors.items()
        if name.startswith(_PREFIX)
    }
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        raise StateMismatch(
            "the relation encoder of the scope cannot be read", "`editcli verify`"
        ) from error


def padded(inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Several texts as one batch, padded with zeros: ``[texts, tokens, ...]``, and bool ``[texts,
    tokens]``, False at pads."""
    batch = nn.utils.rnn.pad_sequence([*inputs], batch_first=True)
    lengths = torch.tensor([len(of_text) for of_text in inputs])
    return batch, torch.arange(batch.shape[1]) < lengths[:, None]
