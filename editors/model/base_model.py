"""The model to be edited, its tokenizer, and the block that edits go into."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from fractions import Fraction

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editors.model.architecture import DEPTH, Architecture
from editors.model.hooks import Within, setting
from editors.model.projection import Projection
from editors.model.tokenization import Batch, Row, Side, pad_id, pad_rows

# The configuration keys that determine what a model computes, under every release of transformers.
# The whole configuration would differ between releases, as each release adds keys with defaults.
STRUCTURE = (
    *("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"),
    *("hidden_act", "rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "sliding_window"),
    *("tie_word_embeddings", "num_local_experts", "num_experts", "num_experts_per_tok"),
)

EDITED = "edited_"
"""Before the model type of a base that was exported with its edits and code of its own."""

# Attributes of a model whose other weights are packed to few bits, so that hidden states differ.
PACKED = ("is_loaded_in_8bit", "is_loaded_in_4bit")

_probing: ContextVar[bool] = ContextVar("probing", default=False)


@dataclass(frozen=True, slots=True)
class Base:
    """A frozen decoder, its tokenizer, and the block (``layer``) whose projection is edited.

    ``source``: the hex SHA-256 of what the model was made from, if it was: the file that was
    converted, or a base and an adapter. Whoever makes it vouches that the weights follow from that.
    ``adapter``: the hex SHA-256 of the adapter that was merged into the weights; empty if none was.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    architecture: Architecture
    layer: int
    source: str = ""
    adapter: str = ""

    @staticmethod
    def of(
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        layer: int | Fraction = DEPTH,
        source: str = "",
    ) -> Base:
        """Freeze ``model``, read its structure and choose block ``layer``.

        A share of the depth means :meth:`Architecture.default_layer`. A model whose blocks are all
        mixtures of experts has no projection to edit, but it can answer, and its heads can be
        pruned. There, a share means the middle one of the blocks with heads.

        Raises:
            UnsupportedArchitecture: the structure of the model is not known, the block has no
                projection that can be edited, or the model has neither such a block nor heads.
            EditorError: there is no such layer.
        """
        architecture = Architecture.of(model)
        with_heads = [block.index for block in architecture.blocks if block.attention_out]
        if with_heads and not any(block.mlp_down for block in architecture.blocks):
            chosen = layer if isinstance(layer, int) else with_heads[len(with_heads) // 2]
            architecture.head_slice(chosen, 0)
        else:
            chosen = architecture.layer_at(layer)
            architecture.editable(chosen)
        return Base(model.eval().requires_grad_(False), tokenizer, architecture, chosen, source)

    @property
    def projection(self) -> Projection:
        """The projection that edits go into; raises UnsupportedArchitecture if there is none."""
        return self.architecture.editable(self.layer)

    @property
    def fingerprinted_projection(self) -> Projection:
        """The edited projection, or the block's attention output if nothing can be edited."""
        block = self.architecture.block(self.layer)
        return self.projection if block.mlp_down or not block.attention_out else block.attention_out

    @property
    def device(self) -> torch.device:
        """The device of the edited projection."""
        return self.fingerprinted_projection.weight(self.model).device

    @property
    def input_device(self) -> torch.device:
        """The device of the token embeddings, where batches must be."""
        embeddings: torch.nn.Module = self.model.get_input_embeddings()
        return next(embeddings.parameters()).device

    @property
    def vocabulary(self) -> int:
        """The number of logits at each position."""
        return self.architecture.vocab_size

    def fingerprint(self) -> str:
        """The hex SHA-256 of the weights of the edited projection and of the model's structure; or
        of the model's ``source`` and its dtype, from which these follow.

        Edits fit every base with the same fingerprint. A base has the same fingerprint under every
        supported release of transformers, and whatever release converted it.
        """
        structure: dict[str, object] = {"dtype": str(self.model.dtype)}
        digest = self.source
        if not digest:
            digest, structure = self.fingerprinted_projection.digest(self.model), self._structure()
        if packed := [flag for flag in PACKED if getattr(self.model, flag, False)]:
            structure["packed"] = packed
        path = self.fingerprinted_projection.path
        text = json.dumps([structure, path, len(self.architecture.blocks)], sort_keys=True)
        return hashlib.sha256(f"{digest}\n{text}".encode()).hexdigest()

    def _structure(self) -> dict[str, object]:
        config = self.model.config.get_text_config(decoder=True)
        values = {key: getattr(config, key, None) for key in STRUCTURE}
        values["model_type"] = str(values["model_type"]).removeprefix(EDITED)
        return {key: value for key, value in values.items() if value is not None}

    def batch(self, rows: Sequence[Row], side: Side = "right") -> Batch:
        """The rows padded on ``side``, on the model's input device."""
        return pad_rows(rows, pad_id(self.tokenizer), side, self.input_device)

    def probing(self) -> Within:
        """Inside ``with``, forwards of this thread see the unedited base.

        Everything that is attached to the model ignores them: nothing is routed, no head is pruned,
        and no decision is recorded.
        """
        return setting(_probing, True)


def is_probing() -> bool:
    """Whether this thread is inside :meth:`Base.probing`."""
    return _probing.get()
