"""Sizes of tiny models, and the configuration of one of each family of decoders.

A family is called by the name of its model type in transformers.
"""

from __future__ import annotations

from typing import Any

VOCABULARY = 96
HIDDEN = 32
HEADS = 4
BLOCKS = 3
CONTEXT = 128
PAD, BOS, EOS, UNK = range(4)

_IDS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
_BASE = {
    **_IDS,
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": CONTEXT,
}
_MODERN = {**_BASE, "intermediate_size": 48}
_GROUPED = {**_MODERN, "num_key_value_heads": 2}
_WIDE = {**_GROUPED, "head_dim": 16}  # on purpose not hidden / heads
_GEMMA = {**_WIDE, "query_pre_attn_scalar": 16, "sliding_window": 8}
_GPT = {
    **_IDS,
    "vocab_size": VOCABULARY,
    "n_embd": HIDDEN,
    "n_layer": BLOCKS,
    "n_head": HEADS,
    "n_positions": CONTEXT,
}

_COMMON: dict[str, dict[str, Any]] = {
    "gpt2": {**_GPT, "n_inner": HIDDEN},  # square, so that a shape says nothing of orientation
    "gptj": {**_GPT, "n_inner": 48, "rotary_dim": 4},
    "gpt_neox": {**_MODERN, "rotary_pct": 0.5},
    "llama": _WIDE,
    "mistral": _WIDE,
    "qwen2": _GROUPED,
    "qwen3": _WIDE,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "phi": {**_GROUPED, "partial_rotary_factor": 0.5},
    "phi3": {**_WIDE, "original_max_position_embeddings": CONTEXT},
    "opt": {**_BASE, "ffn_dim": 48, "word_embed_proj_dim": HIDDEN},
    "bloom": {**_IDS, "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "n_layer": BLOCKS}
    | {"n_head": HEADS},
    "falcon": {**_BASE, "ffn_hidden_size": 48, "num_kv_heads": 2, "bias": True}
    | {"new_decoder_architecture": True},
    "olmo2": _GROUPED,
    "cohere": {**_GROUPED, "logit_scale": 1.0},
    "starcoder2": {**_GROUPED, "use_bias": True},
}

_SPECIAL: dict[str, dict[str, Any]] = {
    "mixtral": {**_WIDE, "num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": {**_MODERN, "first_k_dense_replace": 1, "moe_intermediate_size": 16}
    | {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    | {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
    | {"v_head_dim": 16, "num_key_value_heads": HEADS},
    "qwen2_moe": {**_GROUPED, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 48}
    | {"num_experts": 4, "num_experts_per_tok": 2},
    "qwen3_5_text": {**_WIDE, "num_hidden_layers": 4, "linear_num_key_heads": 2}
    | {"linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    "mamba": {**_IDS, "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "state_size": 8}
    | {"num_hidden_layers": BLOCKS},
}
"""Families in which not every block, or no block, can be edited."""

_EXPERTS = {**_WIDE, "num_local_experts": 4, "num_experts_per_tok": 2}
_SHARED_EXPERTS = {**_WIDE, "first_k_dense_replace": 1, "moe_intermediate_size": 16}
_SHARED_EXPERTS |= {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
_SSM = {**_IDS, "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "state_size": 8}
_SSM |= {"num_hidden_layers": BLOCKS}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
_MAMBA |= {"mamba_chunk_size": 8}

_MORE: dict[str, dict[str, Any]] = {
    "gpt_neo": {**_IDS, "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_layers": BLOCKS}
    | {"num_heads": HEADS, "intermediate_size": 48, "max_position_embeddings": CONTEXT}
    | {"attention_types": [[["global", "local", "global"], 1]], "window_size": 8},
    "gpt_bigcode": {**_GPT, "n_inner": 48},
    "codegen": {**_GPT, "n_inner": 48, "rotary_dim": 4},
    "mpt": {**_IDS, "vocab_size": VOCABULARY, "d_model": HIDDEN, "n_heads": HEADS}
    | {"n_layers": BLOCKS, "expansion_ratio": 2, "max_seq_len": CONTEXT},
    "xglm": {**_IDS, "vocab_size": VOCABULARY, "d_model": HIDDEN, "ffn_dim": 48}
    | {"num_layers": BLOCKS, "attention_heads": HEADS, "max_position_embeddings": CONTEXT},
    "persimmon": _MODERN,
    "stablelm": _GROUPED,
    "gemma": _WIDE,
    "gemma4_text": {**_GEMMA, "global_head_dim": 16, "hidden_size_per_layer_input": 8}
    | {"vocab_size_per_layer_input": VOCABULARY}
    | {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
    "olmo": _GROUPED,
    "olmo3": {**_GROUPED, "sliding_window": 8},
    "granite": _GROUPED,
    "smollm3": {**_GROUPED, "no_rope_layers": [1, 1, 0]},
    "nemotron": _GROUPED,
    "cohere2": {**_GROUPED, "logit_scale": 1.0, "sliding_window": 8},
    "ministral": {**_WIDE, "sliding_window": 8},
    "glm4": _WIDE,
    "exaone4": {**_WIDE, "sliding_window": 8, "sliding_window_pattern": 3},
    "seed_oss": _WIDE,
    "ernie4_5": _WIDE,
    # Mixtures of experts.
    "qwen3_moe": {**_WIDE, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2},
    "olmoe": {**_GROUPED, "num_experts": 4, "num_experts_per_tok": 2},
    "phimoe": _EXPERTS,
    "granitemoe": {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {**_EXPERTS, "sliding_window": 8, "rope_parameters": {"rope_theta": 10000.0}},
    "glm4_moe": _SHARED_EXPERTS,
    "llama4_text": {**_WIDE, "intermediate_size_mlp": 48, "num_local_experts": 4}
    | {"interleave_moe_layer_step": 2, "num_experts_per_tok": 1},
    # State spaces, recurrences and convolutions, alone or beside attention.
    "qwen3_next": {**_WIDE, "num_hidden_layers": 4, "linear_num_key_heads": 2, "num_experts": 4}
    | {"linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
    | {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 48}
    | {"num_experts_per_tok": 2},
    "lfm2": {**_GROUPED, "layer_types": ["conv", "full_attention", "conv"], "block_ff_dim": 48}
    | {"block_auto_adjust_ff_dim": False},
    "recurrent_gemma": {**_GROUPED, "attention_window_size": 16, "lru_width": HIDDEN}
    | {"block_types": ["recurrent", "recurrent", "attention"]},
    "falcon_h1": {**_WIDE, "mamba_d_ssm": 32, **_MAMBA, "mamba_n_heads": 4},
    "bamba": {**_GROUPED, **_MAMBA, "attn_layer_indices": [1], "mamba_expand": 2},
    "jamba": {**_GROUPED, "num_hidden_layers": 4, "attn_layer_period": 4, "attn_layer_offset": 1}
    | {"expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 4}
    | {"num_experts_per_tok": 2, "mamba_d_state": 8, "mamba_dt_rank": 4},
    "mamba2": {**_SSM, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "falcon_mamba": _SSM,
}
"""Families that are measured for docs/models.md, and on which few other tests run."""

CONFIGS = {**_COMMON, **_SPECIAL, **_MORE}
EDITABLE = tuple(_COMMON)
"""Families whose every block has both projections, on which most tests run."""
REFUSED = ("mamba", "mamba2", "falcon_mamba")
"""Families of which nothing can be edited."""
