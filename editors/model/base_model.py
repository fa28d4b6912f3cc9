"""The model under edit: its modules, its tokenizer, and where it is edited."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editors.model.architecture import Architecture, Projection
from editors.model.tokenization import Batch, Row, pad, pad_id


@dataclass(frozen=True, slots=True)
class Base:
    """A frozen decoder, its tokenizer, and the block whose projection is edited."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    architecture: Architecture
    layer: int

    @staticmethod
    def of(
        model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, layer: int | None = None
    ) -> Base:
        """Freeze ``model``, look at it and choose block ``layer`` (default: by depth, never the
        last).

        A model whose blocks are mixtures of experts throughout has nothing to edit, but heads: it
        may be asked, and its heads pruned.

        Raises:
            UnsupportedArchitecture: the model is no decoder known by structure, that block has no
                projection that can be edited, or the model has neither such a block nor heads.
        """
        architecture = Architecture.of(model)
        headed = [block.index for block in architecture.blocks if block.attention_out]
        if headed and not any(block.mlp_down for block in architecture.blocks):
            chosen = headed[len(headed) // 2] if layer is None else layer
            architecture.head_dim(chosen)
        else:
            chosen = architecture.default_layer() if layer is None else layer
            architecture.editable(chosen)
        return Base(model.eval().requires_grad_(False), tokenizer, architecture, chosen)

    @property
    def projection(self) -> Projection:
        """The projection that edits go into; raises UnsupportedArchitecture where none can."""
        return self.architecture.editable(self.layer)

    @property
    def anchor(self) -> Projection:
        """What the base is known by: the edited projection, else the block's attention output."""
        block = self.architecture.block(self.layer)
        return self.projection if block.mlp_down or not block.attention_out else block.attention_out

    @property
    def device(self) -> torch.device:
        """Where the edited projection lives."""
        device: torch.device = self.anchor.weight(self.model).device
        return device

    @property
    def input_device(self) -> torch.device:
        embeddings: torch.nn.Module = self.model.get_input_embeddings()
        return next(embeddings.parameters()).device

    def fingerprint(self) -> str:
        """SHA-256 over the edited projection's weights and the model's structure.

        Two bases with one fingerprint take the same edits.
        """
        config = self.model.config.to_dict()
        told = {
            k: v for k, v in config.items() if not k.startswith("_") and k not in _NOT_STRUCTURE
        }
        text = json.dumps([told, self.anchor.path], sort_keys=True, default=str)
        digest = self.anchor.digest(self.model)
        return hashlib.sha256(f"{digest}\n{text}".encode()).hexdigest()

    def batch(self, rows: Sequence[Row], side: Literal["left", "right"] = "right") -> Batch:
        """The rows padded on ``side``, on the model's input device."""
        return pad(rows, pad_id(self.tokenizer), side, self.input_device)


# What a config says about this machine or this release, not about the model.
_NOT_STRUCTURE = {"transformers_version", "dtype", "torch_dtype", "name_or_path"}
