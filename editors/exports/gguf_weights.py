"""Plain weights as a GGUF file, the format of llama.cpp.

The names of tensors are those of the package ``gguf``, and the keys of the header those of its
writer. Families differ in two ways from what transformers has: which of them are written is told by
:data:`FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import PreTrainedModel

from editors.errors import UnsupportedArchitecture
from editors.exports.gguf_vocabulary import HINT, Vocabulary


@dataclass(frozen=True, slots=True)
class Family:
    """``architecture``: what GGUF calls it. ``interleaved``: the two halves of a rotated pair stand
    together in the rows of queries and keys, where transformers has all first halves first."""

    architecture: gguf.MODEL_ARCH
    interleaved: bool = False

    @property
    def name(self) -> str:
        """The architecture, as the header says it."""
        return gguf.MODEL_ARCH_NAMES[self.architecture]


FAMILIES = {
    "llama": Family(gguf.MODEL_ARCH.LLAMA, interleaved=True),
    "mistral": Family(gguf.MODEL_ARCH.LLAMA, interleaved=True),
    "qwen2": Family(gguf.MODEL_ARCH.QWEN2),
    "qwen3": Family(gguf.MODEL_ARCH.QWEN3),
}
"""By type of the model."""

KINDS = {
    torch.float32: (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    torch.float16: (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    torch.bfloat16: (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}
"""By dtype, the type of the matrices, and what GGUF calls such a file."""


def write_gguf(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    split: str,
    path: Path,
    dtype: torch.dtype,
) -> None:
    """Write ``model`` to the GGUF file ``path``, its matrices in ``dtype``, and all else in
    float32. ``split``: see :func:`~editors.exports.gguf_vocabulary.find_split`.

    Raises:
        UnsupportedArchitecture: the family of the model is not written, or it has something that
            the format has no place for.
    """
    config = model.config
    family = require_family(config)
    writer = gguf.GGUFWriter(path, family.name)
    try:
        writer.add_name(path.stem)
        _write_config(writer, config, KINDS[dtype][1])
        vocabulary.write(writer, split)
        for key, values in _tensors(model, family):
            kind = KINDS[dtype][0] if values.ndim > 1 else gguf.GGMLQuantizationType.F32
            writer.add_tensor(key, gguf.quants.quantize(values, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def require_family(config: Any) -> Family:
    """The family of a model with ``config``; raises UnsupportedArchitecture as :func:`write_gguf`
    does."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise UnsupportedArchitecture(
            f"a {config.model_type!r} is not written as a GGUF file; written are "
            f"{', '.join(FAMILIES)}",
            HINT,
        )
    rope = (config.rope_parameters or {}).get("rope_type", "default")
    special = {
        f"its rotary positions are of the type {rope!r}": rope != "default",
        "its attention has a sliding window": getattr(config, "sliding_window", None),
        f"its activation is {config.hidden_act}": config.hidden_act != "silu",
    }
    for problem in (text for text, there in special.items() if there):
        raise UnsupportedArchitecture(f"no GGUF file is written of this model: {problem}", HINT)
    return family


def _write_config(writer: gguf.GGUFWriter, config: Any, kind: gguf.LlamaFileType) -> None:
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_file_type(kind)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(width)
    writer.add_vocab_size(config.vocab_size)


def _tensors(model: PreTrainedModel, family: Family) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors, each with its name in the file; one that another is tied to is left out."""
    config = model.config
    names = gguf.get_tensor_name_map(family.architecture, config.num_hidden_layers)
    tied = {*(model.all_tied_weights_keys or ())} if config.tie_word_embeddings else set()
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for key, tensor in model.state_dict().items():
        if key in tied:
            continue
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise UnsupportedArchitecture(f"a GGUF file has no place for {key}", HINT)
        values = tensor.detach().cpu().float().contiguous().numpy()
        count = heads.get(key.split(".")[-2])
        yield name, interleaved(values, count) if family.interleaved and count else values


def interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a query or key projection of so many ``heads``, ``[rows, ...]``, with both rows
    of a rotated pair together."""
    halves = values.reshape(heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
