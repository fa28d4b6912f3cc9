"""The model under edit: its modules, its tokenizer, and the block that is edited by default."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editors.model.architecture import Architecture
from editors.model.projection import Projection
from editors.model.tokenization import Batch, Row, pad_id, pad_rows

# Keys of a configuration that say what a model computes, whatever release of transformers wrote it.
# A whole configuration would not do: each release adds keys with defaults of their own.
STRUCTURE = (
    *("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"),
    *("hidden_act", "rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "sliding_window"),
    *("tie_word_embeddings", "num_local_experts", "num_experts", "num_experts_per_tok"),
)

# Attributes of a model whose other weights are packed, so that it gives other states.
PACKED = ("is_loaded_in_8bit", "is_loaded_in_4bit")

_probing: ContextVar[bool] = ContextVar("probing", default=False)


@dataclass(frozen=True, slots=True)
class Base:
    """A frozen decoder, its tokenizer, and block ``layer``, whose projection is edited."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    architecture: Architecture
    layer: int

    @staticmethod
    def of(
        model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, layer: int | None = None
    ) -> Base:
        """Freeze ``model``, read its structure and choose block ``layer``.

        By default the block is chosen by depth, and is never the last one. A model whose blocks
        are all mixtures of experts has no projection to edit; it may be asked, and its heads
        pruned.

        Raises:
            UnsupportedArchitecture: the model is no decoder known by structure, the block has no
                projection that can be edited, or the model has neither such a block nor heads.
        """
        architecture = Architecture.of(model)
        with_heads = [block.index for block in architecture.blocks if block.attention_out]
        if with_heads and not any(block.mlp_down for block in architecture.blocks):
            chosen = with_heads[len(with_heads) // 2] if layer is None else layer
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
    def fingerprinted_projection(self) -> Projection:
        """The edited projection, or the block's attention output where nothing can be edited."""
        block = self.architecture.block(self.layer)
        return self.projection if block.mlp_down or not block.attention_out else block.attention_out

    @property
    def device(self) -> torch.device:
        """The device of the edited projection."""
        device: torch.device = self.fingerprinted_projection.weight(self.model).device
        return device

    @property
    def input_device(self) -> torch.device:
        """The device of the token embeddings, where batches belong."""
        embeddings: torch.nn.Module = self.model.get_input_embeddings()
        return next(embeddings.parameters()).device

    @property
    def vocabulary(self) -> int:
        """How many logits a position has."""
        return self.architecture.vocab_size

    def fingerprint(self) -> str:
        """SHA-256 over the weights of the edited projection and the model's structure.

        Two bases with one fingerprint take the same edits. Equal under every supported release of
        transformers.
        """
        config = self.model.config.get_text_config(decoder=True)
        values = {key: getattr(config, key, None) for key in STRUCTURE}
        structure = {key: value for key, value in values.items() if value is not None}
        if packed := [flag for flag in PACKED if getattr(self.model, flag, False)]:
            structure["packed"] = packed
        path = self.fingerprinted_projection.path
        text = json.dumps([structure, path, len(self.architecture.blocks)], sort_keys=True)
        digest = self.fingerprinted_projection.digest(self.model)
        return hashlib.sha256(f"{digest}\n{text}".encode()).hexdigest()

    def batch(self, rows: Sequence[Row], side: Literal["left", "right"] = "right") -> Batch:
        """The rows padded on ``side``, on the model's input device."""
        return pad_rows(rows, pad_id(self.tokenizer), side, self.input_device)

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Forwards inside ``with`` are the tool's own, on the unedited base.

        Whatever is attached to the model lets them pass: nothing is routed, no head is pruned, and
        no decision is recorded. Holds in this thread only.
        """
        token = _probing.set(True)
        try:
            yield
        finally:
            _probing.reset(token)


def is_probing() -> bool:
    """Whether this thread is inside :meth:`Base.probing`."""
    return _probing.get()
