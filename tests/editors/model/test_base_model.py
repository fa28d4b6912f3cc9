"""A base: what it is known by, and which block is edited."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from threading import Thread
from typing import Any

import pytest
import torch

from editors import UnsupportedArchitecture
from editors.model.base_model import STRUCTURE, Base, is_probing

BaseOf = Callable[..., Any]
ModelOf = Callable[[str], Any]


@pytest.fixture
def base(fresh_tiny_model: ModelOf, word_tokenizer: Callable[..., Any]) -> Base:
    """A base that the test may change."""
    return Base.of(fresh_tiny_model("llama"), word_tokenizer())


# --- the fingerprint --------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "opt", "mixtral"])
def test_equal_models_have_one_fingerprint(
    tiny_base: BaseOf, fresh_tiny_model: ModelOf, family: str
) -> None:
    base = tiny_base(family)
    again = Base.of(fresh_tiny_model(family), base.tokenizer)
    assert len(base.fingerprint()) == 64
    assert again.fingerprint() == base.fingerprint()


def test_families_have_fingerprints_of_their_own(tiny_base: BaseOf) -> None:
    families = ("llama", "mistral", "qwen3", "olmo2", "gpt2", "opt")
    assert len({tiny_base(family).fingerprint() for family in families}) == len(families)


@pytest.mark.parametrize(
    ("family", "start"),
    [
        ("gpt2", "4d958ed7393b59c6"),
        ("gpt_neox", "8c8e4d6d7e86b158"),
        ("llama", "4da07a07b1bbf99e"),
        ("gemma2", "f9546d58827781d1"),
        ("opt", "c8dc0465b38fc867"),
        ("bloom", "9de5aa43c1b4bf79"),
        ("mixtral", "c2eaeed87aa35d14"),
    ],
)
def test_a_fingerprint_is_the_same_with_every_release_of_transformers(
    fresh_tiny_model: ModelOf, tiny_base: BaseOf, family: str, start: str
) -> None:
    """Stores hold fingerprints: where one of these changes, no such store opens any more."""
    base = replace(tiny_base(family), model=fresh_tiny_model(family))
    projection = base.fingerprinted_projection
    weight, bias = projection.module(base.model).weight, projection.bias(base.model)
    with torch.no_grad():
        weight.copy_(torch.arange(weight.numel()).view(weight.shape) / 8)
        if bias is not None:
            bias.fill_(0.5)
    assert base.fingerprint()[:16] == start


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("transformers_version", "99.0"),
        ("_name_or_path", "elsewhere"),
        ("dtype", "bfloat16"),
        ("use_cache", False),
        ("a_key_of_a_later_release", 3),
    ],
)
def test_what_a_release_writes_into_a_configuration_does_not_count(
    base: Base, key: str, value: object
) -> None:
    before = base.fingerprint()
    setattr(base.model.config, key, value)
    assert base.fingerprint() == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "other"),
        ("hidden_size", 64),
        ("intermediate_size", 64),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("head_dim", 8),
        ("vocab_size", 97),
        ("hidden_act", "gelu"),
        ("rms_norm_eps", 0.1),
        ("max_position_embeddings", 64),
        ("tie_word_embeddings", True),
        ("sliding_window", 8),
    ],
)
def test_each_key_of_the_structure_counts(base: Base, key: str, value: object) -> None:
    assert key in STRUCTURE
    before = base.fingerprint()
    assert getattr(base.model.config, key, None) != value
    setattr(base.model.config, key, value)
    assert base.fingerprint() != before


def test_a_key_that_a_model_does_not_have_is_one_that_is_none(base: Base) -> None:
    before = base.fingerprint()
    assert getattr(base.model.config, "num_experts", None) is None
    base.model.config.num_experts = None
    assert base.fingerprint() == before


def test_the_number_of_blocks_counts(base: Base) -> None:
    before = base.fingerprint()
    fewer = replace(base.architecture, blocks=base.architecture.blocks[:2])
    assert replace(base, architecture=fewer).fingerprint() != before


def test_the_edited_weights_their_dtype_and_their_block_count(base: Base) -> None:
    fingerprints = {base.fingerprint(), replace(base, layer=0).fingerprint()}
    base.projection.weight(base.model)[0, 0] += 1
    fingerprints.add(base.fingerprint())
    base.model.bfloat16()
    fingerprints.add(base.fingerprint())
    assert len(fingerprints) == 4


def test_weights_that_are_not_edited_do_not_count(base: Base) -> None:
    """They are not read: of a large model that would take minutes."""
    before = base.fingerprint()
    base.model.lm_head.weight.data += 1
    assert base.fingerprint() == before


def test_a_converted_model_is_known_by_the_file_it_was_made_of(base: Base) -> None:
    made = replace(base, source="a" * 64)
    before = made.fingerprint()
    others = [replace(base, source="b" * 64), replace(made, layer=0), base]
    assert len({before, *(other.fingerprint() for other in others)}) == 4
    base.projection.weight(base.model)[0, 0] += 1  # another release may round otherwise
    base.model.config.rms_norm_eps = 0.1
    assert made.fingerprint() == before
    base.model.bfloat16()
    assert made.fingerprint() != before


def test_a_mixture_of_experts_is_known_by_its_attention(base: Base, tiny_base: BaseOf) -> None:
    mixture = tiny_base("mixtral")
    with pytest.raises(UnsupportedArchitecture):
        _ = mixture.projection
    block = mixture.architecture.block(mixture.layer)
    assert mixture.fingerprinted_projection == block.attention_out
    assert base.fingerprinted_projection == base.projection


# --- the model --------------------------------------------------------------------------------


def test_a_base_is_frozen(fresh_tiny_model: ModelOf, word_tokenizer: Callable[..., Any]) -> None:
    model = fresh_tiny_model("llama").train().requires_grad_(True)
    base = Base.of(model, word_tokenizer())
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


def test_probing_holds_in_its_own_thread_and_ends_also_after_an_error(base: Base) -> None:
    seen: list[bool] = []

    def fail_while_probing() -> None:
        with base.probing():
            other = Thread(target=lambda: seen.append(is_probing()))
            other.start()
            other.join()
            seen.append(is_probing())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_while_probing()
    assert seen == [False, True]
    assert not is_probing()
