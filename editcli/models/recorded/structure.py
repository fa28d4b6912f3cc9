"""What of a base's configuration decides what it computes: named keys, and no others.

A whole configuration would differ between releases of the libraries, and by keys that change
nothing, such as where a model was saved. So the keys that count are listed, and a store records
their values one by one: what differs can then be named.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from editcli.models.adapters import WHERE, Adapter
from editcli.models.libraries import quiet_libraries
from editcli.models.loading import KIND, load_config, parts_of
from editcli.models.locations import ADAPTER_CONFIG, ModelLocation, json_in

Structure = Mapping[str, bool | int | float | str]
"""The keys with their values. Those of nested objects have dots; lists are JSON."""

NONE = "none"  # in place of null, which TOML has not: a later value is then a difference
PACKED = "quantization_config"
ADAPTER = "adapter"
SHOWN = 60  # characters of a value in a message

_KINDS = (
    *("model_type", "is_decoder", "is_encoder_decoder", "add_cross_attention"),
    *("tie_word_embeddings", "eos_token_id"),
)
_SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim"),
    *("num_attention_heads", "num_key_value_heads", "num_kv_heads", "n_inner", "ffn_dim"),
    *("ffn_hidden_size", "word_embed_proj_dim", "expansion_ratio", "intermediate_size_mlp"),
    *("hidden_size_per_layer_input", "vocab_size_per_layer_input", "num_kv_shared_layers"),
    *("use_double_wide_mlp", "block_auto_adjust_ff_dim", "block_ffn_dim_multiplier"),
    "block_multiple_of",
)
_POSITIONS = (
    *("max_position_embeddings", "max_seq_len", "n_ctx", "original_max_position_embeddings"),
    *("rope_parameters", "rope_theta", "partial_rotary_factor", "rotary_dim"),
    *("rope_interleave", "no_rope_layers", "no_rope_layer_interval", "alibi", "learned_pos_emb"),
    *("position_embedding_type", "no_rope", "rotary_pct", "rotary_emb_base"),
)
_ATTENTION = (
    *("sliding_window", "use_sliding_window", "max_window_layers", "sliding_window_pattern"),
    *("layer_types", "attention_layers", "attention_types", "attention_window_size"),
    *("window_size", "attention_chunk_size", "attention_bias", "attention_out_bias", "qkv_bias"),
    *("use_qkv_bias", "clip_qkv", "qk_layernorm", "use_qk_norm", "query_pre_attn_scalar"),
    *("attn_logit_softcapping", "attn_temperature_tuning", "attn_scale", "floor_scale"),
    *("attention_multiplier", "attention_k_eq_v", "use_bidirectional_attention", "multi_query"),
    *("new_decoder_architecture", "scale_attn_weights", "scale_attn_by_inverse_layer_idx"),
    *("reorder_and_upcast_attn", "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"),
    *("attn_config", "q_lora_rank", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim"),
    *("qk_head_dim", "v_head_dim"),
)
_NORMS_AND_SCALES = (
    *("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon"),
    *("norm_type", "layer_norm_elementwise_affine", "do_layer_norm_before"),
    *("_remove_final_layer_norm", "apply_residual_connection_post_layernorm", "parallel_attn"),
    *("num_ln_in_parallel_attn", "use_parallel_residual", "scale_embedding", "logit_scale"),
    *("embedding_multiplier", "residual_multiplier", "logits_scaling", "final_logit_softcapping"),
    *("logits_soft_cap", "mixer_rms_eps", "residual_in_fp32"),
)
_ACTIVATIONS_AND_BIASES = (
    *("hidden_act", "hidden_activation", "activation", "activation_function", "swiglu_alpha"),
    *("swiglu_limit", "mlp_bias", "bias", "use_bias", "no_bias", "enable_bias", "lm_head_bias"),
    "slow_but_exact",
)
_EXPERTS = (
    *("num_local_experts", "num_experts", "n_routed_experts", "n_shared_experts"),
    *("num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size"),
    *("norm_topk_prob", "n_group", "topk_group", "routed_scaling_factor", "decoder_sparse_step"),
    *("mlp_only_layers", "first_k_dense_replace", "moe_layers", "interleave_moe_layer_step"),
    *("expert_layer_offset", "expert_layer_period", "enable_moe_block", "top_k_experts"),
    *("router_jitter_noise", "input_jitter_noise"),
)
_RECURRENT = (
    *("state_size", "conv_kernel", "expand", "n_groups", "num_heads", "time_step_rank"),
    *("time_step_limit", "time_step_floor", "time_step_min", "time_step_max", "use_conv_bias"),
    *("block_types", "conv1d_width", "lru_width", "conv_L_cache", "conv_bias", "full_attn_idxs"),
    *("attn_layer_indices", "attn_layer_offset", "attn_layer_period", "linear_conv_kernel_dim"),
    *("linear_key_head_dim", "linear_num_key_heads", "linear_num_value_heads"),
    *("linear_value_head_dim", "mamba_conv_bias", "mamba_d_conv", "mamba_d_head", "mamba_d_ssm"),
    *("mamba_d_state", "mamba_dt_rank", "mamba_expand", "mamba_n_groups", "mamba_n_heads"),
    *("mamba_norm_before_gate", "mamba_proj_bias", "mamba_rms_norm", "projectors_bias"),
    *("attention_in_multiplier", "attention_out_multiplier", "key_multiplier"),
    *("lm_head_multiplier", "mlp_multipliers", "ssm_in_multiplier", "ssm_out_multiplier"),
    *("ssm_multipliers", "chunk_size", "mamba_chunk_size"),
)
KEYS = (
    *(*_KINDS, *_SIZES, *_POSITIONS, *_ATTENTION, *_NORMS_AND_SCALES, *_ACTIVATIONS_AND_BIASES),
    *(*_EXPERTS, *_RECURRENT),
)
"""The keys of a configuration that decide what a model computes, as transformers calls them."""


def structure_of(name: str, revision: str, adapter: str, code: str) -> dict[str, Any]:
    """The structure of a base; empty for a GGUF file, whose digest covers it. The arguments are
    those of :func:`~editcli.models.loading.load_base`, and the errors those of
    :func:`~editcli.models.loading.load_config`. No weights are read."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    location, merging = parts_of(name, revision, adapter)
    found = dict(_of_adapter(merging)) if merging else {}
    if location.gguf:
        return found
    with quiet_libraries(0):
        config = load_config(location, KIND, MODEL_FOR_CAUSAL_LM_MAPPING, code)
        values = structure_in(config)
        ends = _ends(location)
    if ends is not None:
        values["eos_token_id"] = ends
    return {**values, **found}


def structure_in(config: Any) -> dict[str, Any]:
    """The structure in a configuration of transformers. A key that its class does not know is left
    out, as another release may know it; one without a value is :data:`NONE`."""
    text = config.get_text_config(decoder=True)
    found = dict(_flat(PACKED, getattr(config, PACKED, None)))  # no class knows it before it is set
    for key in KEYS:
        if hasattr(text, key):
            written = text.attribute_map.get(key, key)
            found |= dict(_flat(written, getattr(text, key)))
    return found


def differences(recorded: Structure, found: Structure) -> list[str]:
    """Each key that differs, with both values, in words. ``recorded``: as a store has it.

    A key that only one of them knows is no difference: releases of transformers add keys. Inside an
    object it is one, as there a default stands in its place.
    """
    problems = []
    roots = {key.split(".")[0] for key in recorded} & {key.split(".")[0] for key in found}
    for key in dict.fromkeys([*recorded, *found]):
        if key.split(".")[0] not in roots:
            continue
        place, old, new = _first_difference(key, recorded.get(key, NONE), found.get(key, NONE))
        if old != new:
            problems.append(f"{place} is {_shown(new)}, and {_shown(old)} is recorded")
    return problems


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, Mapping):
        usual = _usual_keys()
        below = {str(k): v for k, v in value.items() if k not in usual and v is not None}
        for name in sorted(below):
            yield from _flat(f"{key}.{name}", below[name])
        if not below:
            yield key, NONE
    elif value is None:
        yield key, NONE
    elif isinstance(value, bool | int | str) or (
        isinstance(value, float) and abs(value) < float("inf")
    ):
        yield key, value
    else:
        yield key, json.dumps(value, default=str)


def _usual_keys() -> set[str]:
    """What every configuration of transformers has, so a nested one, too."""
    from transformers import PreTrainedConfig

    return {*PreTrainedConfig().to_dict()}


def _ends(location: ModelLocation) -> Any:
    """The tokens that end a text, as the generation settings of a checkpoint say; None where it has
    none."""
    from transformers import GenerationConfig

    try:
        settings = GenerationConfig.from_pretrained(location.path, revision=location.revision)
    except (OSError, ValueError):
        return None
    ends = settings.eos_token_id
    return json.dumps(ends) if isinstance(ends, list) else ends


def _of_adapter(adapter: Adapter) -> Iterator[tuple[str, Any]]:
    values = json_in(adapter.folder / ADAPTER_CONFIG)
    for key in sorted(values.keys() - set(WHERE)):
        yield from _flat(f"{ADAPTER}.{key}", values[key])


def _first_difference(key: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    """Where two values differ: in lists of one length, the first entry that does."""
    lists = [_list(value) for value in (old, new)]
    if lists[0] is None or lists[1] is None:
        return key, old, new
    if len(lists[0]) == len(lists[1]):
        for place, (before, after) in enumerate(zip(*lists, strict=True)):
            if before != after:
                return f"{key}[{place}]", before, after
        return key, None, None
    return key, old, new


def _list(value: Any) -> list[Any] | None:
    if not (isinstance(value, str) and value.startswith("[")):
        return None
    try:
        read = json.loads(value)
    except ValueError:
        return None
    return read if isinstance(read, list) else None


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
