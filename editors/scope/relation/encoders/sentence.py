"""The relation encoder that is a sentence encoder, fine-tuned by changes of low rank.

A sentence encoder gives texts of like meaning like directions. Fine-tuned, it gives like directions
to texts that ask the same of their subject. The change of each weight is a product of two small
matrices (Hu et al., LoRA, ICLR 2022), so that a store can hold it; the weights themselves stay
where the encoder is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from editors.errors import StateMismatch
from editors.model.base_model import Base
from editors.scope.base import Settings, Tensors
from editors.scope.relation.asking import FILLER, MARK
from editors.scope.relation.encoders.base import load_saved, padded, saved
from editors.scope.relation.encoders.sentence_models import (
    SentenceModel,
    load_sentence_model,
    model_folder,
)

RANK = 16
TRAINED = 2 / 3  # of the linear maps, the last ones
TOKENS = 64  # the last of a text that are read
TOGETHER = 32  # texts of a forward, in training


class LowRank(nn.Module):
    """A change of a weight ``[outputs, inputs]`` of rank ``RANK``, zero at first."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(outputs, RANK))
        self.down = nn.Parameter(torch.zeros(RANK, inputs))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.up @ self.down


class SentenceEncoder:
    """Reads token ids, int64 ``[tokens]``. The model is loaded when a text is read first."""

    threshold: ClassVar[float] = 0.64
    recognised: ClassVar[float] = 0.7
    learning_rate: ClassVar[float] = 1e-3

    def __init__(
        self, name: str, fingerprint: str, dimensions: int, changes: Sequence[LowRank]
    ) -> None:
        """``name``: of the model; ``fingerprint``: of the model that the ``changes`` belong to, one
        for each linear map that is trained; ``dimensions``: of a direction."""
        self._name, self._fingerprint, self.dimensions = name, fingerprint, dimensions
        self._changes = changes
        self.trained = nn.ModuleList(changes)
        self._loaded: SentenceModel | None = None

    @classmethod
    def depends_on(cls, base: Base, settings: Settings) -> list[Any]:
        return [load_sentence_model(str(settings["encoder"])).fingerprint()]

    @classmethod
    def untrained(cls, base: Base, settings: Settings) -> SentenceEncoder:
        name = str(settings["encoder"])
        model = load_sentence_model(name)
        maps, dimensions = _trained_maps(model), model.model.config.hidden_size
        changes = [LowRank(*linear.weight.shape) for linear in maps]
        encoder = cls(name, model.fingerprint(), dimensions, changes)
        for linear, change in zip(maps, changes, strict=True):
            nn.init.normal_(change.down, std=linear.in_features**-0.5)
            parametrize.register_parametrization(linear, "weight", change)
        encoder._loaded = model
        return encoder

    @classmethod
    def from_tensors(cls, base: Base, tensors: Tensors) -> SentenceEncoder:
        made_of = _made_of(tensors)
        changes = [LowRank(outputs, inputs) for outputs, inputs in made_of["maps"]]
        encoder = cls(made_of["name"], made_of["fingerprint"], made_of["dimensions"], changes)
        load_saved(encoder.trained, tensors)
        return encoder

    def tensors(self) -> dict[str, torch.Tensor]:
        made_of = {
            "name": self._name,
            "fingerprint": self._fingerprint,
            "dimensions": self.dimensions,
            "maps": [(len(change.up), change.down.shape[1]) for change in self._changes],
        }
        return {"made_of": _as_tensor(made_of), **saved(self.trained)}

    @staticmethod
    def folder_of(tensors: Tensors) -> Path:
        """The folder of the model that the encoder with these ``tensors`` asks; raises EditorError
        if it is not on this machine."""
        return model_folder(_made_of(tensors)["name"])

    @staticmethod
    def at(folder: Path, tensors: Tensors) -> Tensors:
        """``tensors`` of the same encoder, whose model is in ``folder``."""
        return {**tensors, "made_of": _as_tensor({**_made_of(tensors), "name": str(folder)})}

    def read(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """The token ids of each text, at most ``TOKENS``. A mask token stands for the subject."""
        tokenizer = self._model.tokenizer
        mark = tokenizer.mask_token or FILLER
        marked = [text.replace(MARK, mark) for text in texts]
        rows = tokenizer(marked, truncation=True, max_length=TOKENS)["input_ids"] if marked else []
        return [torch.tensor(ids) for ids in rows]

    def prepare(self, inputs: Sequence[torch.Tensor]) -> None:
        """Nothing has to be known."""

    def encode(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
        place = torch.tensor(order).argsort()
        with parametrize.cached():  # a weight is changed once for all parts
            parts = [
                self._model.states(*padded([inputs[i] for i in order[start : start + TOGETHER]]))
                for start in range(0, len(order), TOGETHER)
            ]
        return F.normalize(torch.cat(parts), dim=-1)[place]

    @property
    def _model(self) -> SentenceModel:
        if self._loaded is None:
            model = load_sentence_model(self._name)
            if model.fingerprint() != self._fingerprint:
                raise StateMismatch(
                    f"the sentence encoder {self._name!r} is not the one that the store was made "
                    "with",
                    "put the encoder back",
                )
            for linear, change in zip(_trained_maps(model), self._changes, strict=True):
                linear.weight.copy_(change(linear.weight))
            self._loaded = model
        return self._loaded


def _made_of(tensors: Tensors) -> dict[str, Any]:
    """What an encoder is made of, from its ``tensors``; raises StateMismatch if that is missing."""
    try:
        made_of: dict[str, Any] = json.loads(bytes(tensors["made_of"].tolist()))
    except KeyError as missing:
        raise StateMismatch(
            "the calibration of the scope lacks 'made_of'", "`editcli verify`"
        ) from missing
    return made_of


def _as_tensor(made_of: Mapping[str, object]) -> torch.Tensor:
    return torch.tensor(list(json.dumps(made_of).encode()), dtype=torch.uint8)


def _trained_maps(model: SentenceModel) -> list[nn.Linear]:
    maps = model.linear_maps()
    return maps[round((1 - TRAINED) * len(maps)) :]
