"""Tiny GGUF files, written with the package `gguf`, of models that transformers has as well."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from transformers import LlamaForCausalLM

HEADS, KEY_VALUE_HEADS, BLOCKS = 4, 2, 3
END_OF_TEXT, START_OF_TURN, END_OF_TURN = range(3)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("Ġ t", "h e", "Ġt he", "o f", "Ġ of")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL, NORMAL = 3, 1  # types of tokens


def vocabulary() -> list[str]:
    """The special tokens, all bytes, and what the merges make."""
    from tokenizers.pre_tokenizers import ByteLevel

    merged = [merge.replace(" ", "") for merge in MERGES]
    return [*SPECIALS, *sorted(ByteLevel.alphabet()), *merged]


def build_llama(*, tied: bool = True, seed: int = 0) -> LlamaForCausalLM:
    """A random model in float32 whose widths suit blocks of 32 values."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        bos_token_id=START_OF_TURN,
        eos_token_id=END_OF_TURN,
        pad_token_id=END_OF_TURN,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return model.eval()


def save_gguf(
    path: Path,
    model: LlamaForCausalLM,
    kind: str = "F32",
    *,
    architecture: str = "llama",
    pads: bool = True,
    alignment: int = 32,
) -> Path:
    """`path`, now the GGUF file of `model`, its matrices in `kind`; `model` gets the weights that
    the file holds. `pads`: whether the header names a token to pad with."""
    import gguf
    import torch

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_custom_alignment(alignment)
    config = model.config
    writer.add_name("Tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // HEADS)
    tokens = vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if token in SPECIALS else NORMAL for token in tokens])
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(START_OF_TURN)
    writer.add_eos_token_id(END_OF_TURN)
    if pads:
        writer.add_pad_token_id(END_OF_TURN)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, BLOCKS)
    state = model.state_dict()
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    for name, tensor in state.items():
        values = tensor.numpy()
        heads = {"q_proj": HEADS, "k_proj": KEY_VALUE_HEADS}.get(name.split(".")[-2])
        stored = interleaved(values, heads) if heads else values
        as_kind = gguf.GGMLQuantizationType[kind if values.ndim == 2 else "F32"]
        packed = gguf.quants.quantize(stored, as_kind)
        kept = gguf.quants.dequantize(packed, as_kind).reshape(stored.shape)
        tensor.copy_(torch.from_numpy(halved(kept, heads) if heads else kept.copy()))
        gguf_name = names.get_name(name.removesuffix(".weight"))
        writer.add_tensor(f"{gguf_name}.weight", packed, raw_dtype=as_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a query or key projection as GGUF has them: both of a rotated pair together."""
    halves = values.reshape(heads, 2, -1, values.shape[1])
    return halves.swapaxes(1, 2).reshape(values.shape)


def halved(values: np.ndarray, heads: int) -> np.ndarray:
    """The inverse of `interleaved`."""
    pairs = values.reshape(heads, -1, 2, values.shape[1])
    return pairs.swapaxes(1, 2).reshape(values.shape).copy()
