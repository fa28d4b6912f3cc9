"""Models of real sizes with random weights, to measure time and memory on.

What a forward or a step costs does not depend on the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from editcli.files.packaged import datasets_dir

SURE = 60.0  # a logit that the head of a trained model may well give

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2-small": {
        "model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12,
        "n_positions": 1024,
    },
    "llama-110m": {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 768, "intermediate_size": 2048,
        "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 4,
        "max_position_embeddings": 1024,
    },
    "llama-32": {  # as deep as a model of 7B, and narrow
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 512, "intermediate_size": 1376,
        "num_hidden_layers": 32, "num_attention_heads": 8, "num_key_value_heads": 8,
        "max_position_embeddings": 1024,
    },
    "llama-1b": {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632,
        "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4,
        "max_position_embeddings": 1024,
    },
    "llama-7b": {  # as LLaMA-2-7B
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
    },
}  # fmt: skip


def random_weights(
    shape: str, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model of that shape with random weights, and atlas's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(datasets_dir() / "atlas" / "model")
    sizes = dict(SHAPES[shape])
    ids = {k: getattr(tokenizer, k) for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = AutoConfig.for_model(sizes.pop("model_type"), **sizes, **ids)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        head = model.get_output_embeddings().weight  # [vocab, hidden]
        head[len(tokenizer) :] = 0  # it is to say only what the tokenizer has words for
        # The largest logit that a normed state can get: untrained and narrow, never a sure one.
        # (Embeddings that are the head as well grow with it.)
        head *= max(1.0, SURE / (config.initializer_range * head.shape[1]))
    return model, tokenizer


def random_model(shape: str, folder: Path) -> Path:
    """:func:`random_weights` as a folder."""
    model, tokenizer = random_weights(shape)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
