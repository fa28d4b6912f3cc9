"""The structure of a base: the keys that decide what it computes, all of them, and no others."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tiny_configs import CONFIGS
from tiny_models import build

from editcli.models.recorded.structure import KEYS, differences, structure_in

LLAMA = CONFIGS["llama"]

# What is no setting of the model; what a configuration does not take; and what chooses another way
# to the same numbers, whose last bits may differ.
NOT_TRIED = {
    *("dtype", "_name_or_path", "transformers_version", "architectures", "id2label", "label2id"),
    *("problem_type", "return_dict", "output_hidden_states", "ignore_keys_at_rope_validation"),
    *("summary_activation", "_output_attentions"),
}


def config(family: str, **changes: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(family, **{**copy.deepcopy(CONFIGS[family]), **changes})


def others(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1]
    if isinstance(value, float):
        return [value / 2 + 0.25]  # many are shares
    return [2, True] if value is None else []


def test_a_key_that_only_one_release_knows_is_no_difference() -> None:
    known = structure_in(config("llama"))
    less = {key: value for key, value in known.items() if key != "mlp_bias"}
    assert differences(less, known) == differences(known, less) == []


def test_inside_an_object_a_key_that_is_absent_is_a_difference() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "beta_fast": 16.0}
    known = structure_in(config("llama", rope_parameters=yarn))
    less = {key: value for key, value in known.items() if key != "rope_parameters.beta_fast"}
    assert differences(known, less) == ["rope_parameters.beta_fast is none, and 16.0 is recorded"]
    plain = differences(structure_in(config("llama")), known)
    assert "rope_parameters.rope_type is yarn, and default is recorded" in plain


def test_of_lists_the_first_entry_that_differs_is_named() -> None:
    layers = ["full_attention", "sliding_attention", "full_attention"]
    known = structure_in(config("gemma2", layer_types=layers))
    other = structure_in(config("gemma2", layer_types=[*layers[:2], "sliding_attention"]))
    assert differences(known, other) == [
        "layer_types[2] is sliding_attention, and full_attention is recorded"
    ]


def test_a_whole_number_is_the_same_number_with_a_point() -> None:
    known = structure_in(config("llama", rms_norm_eps=1.0))
    assert differences(known, {**known, "rms_norm_eps": 1}) == []


@pytest.mark.slow
@pytest.mark.parametrize("family", CONFIGS)
def test_no_other_key_changes_what_a_model_computes(family: str) -> None:
    """Each key that is not listed is given other values, with the same weights."""
    import torch
    from transformers import AutoModelForCausalLM

    model, known = build(family), structure_in(config(family))
    ids = torch.arange(4, 20)[None]
    text = config(family).get_text_config(decoder=True)
    listed = {text.attribute_map.get(key, key) for key in KEYS} | set(KEYS)
    tried = [key for key in vars(text) if key not in listed | NOT_TRIED and key[-9:] != "_internal"]
    with torch.no_grad():
        wanted = model(ids, use_cache=False).logits
        for key in tried:
            for value in others(getattr(text, key)):
                changed = config(family, **{key: value})
                if differences(known, structure_in(changed)):
                    continue  # it is a key by another name
                other = AutoModelForCausalLM.from_config(changed, dtype=torch.float32).eval()
                other.load_state_dict(model.state_dict())
                assert torch.equal(other(ids, use_cache=False).logits, wanted), (key, value)
