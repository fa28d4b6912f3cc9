"""Bases without weights: a tokenizer and a structure, for what decides and answers nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from editcli.models.gguf_cache import outline, tokenizer_of
from editcli.models.libraries import quiet_libraries
from editcli.models.loading import KIND, load_config, load_tokenizer, parts_of
from editcli.models.recorded.store_base import base_of
from editcli.store.records import StoreConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from editors.model.base_model import Base


def outline_store_base(config: StoreConfig, verbose: int = 0) -> Base:
    """The base of a store without its weights, which need not be there. That it is the base that
    the store was made on cannot be seen then.

    Raises:
        StateMismatch: code of the model's own is not that of the store.
        EditorError: the configuration or the tokenizer cannot be found or read.
    """
    name, revision = base_of(config)
    return outline_base(name, revision, config.adapter, config.remote_code, config.layer, verbose)


def outline_base(
    name: str, revision: str, adapter: str, code: str, layer: int, verbose: int = 0
) -> Base:
    """A base without its weights. The arguments are those of
    :func:`~editcli.models.loading.load_base`.

    Raises:
        StateMismatch: code of the model's own is not ``code``.
        UnsupportedArchitecture: the block cannot be edited.
        EditorError: the configuration or the tokenizer cannot be found or read.
    """
    location, merging = parts_of(name, revision, adapter)

    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    from editors.model.base_model import Base

    with quiet_libraries(verbose):
        if location.gguf:
            of_model, _ = outline(location)
        else:
            of_model = load_config(location, KIND, MODEL_FOR_CAUSAL_LM_MAPPING, code)
        place = merging.tokenizer if merging else location
        tokenizer = tokenizer_of(place) if place.gguf else load_tokenizer(place, code)
        model = model_without_weights(of_model, own_code=bool(code))
    return Base.of(model, tokenizer, layer)


def model_without_weights(config: PreTrainedConfig, own_code: bool) -> PreTrainedModel:
    """A model on the meta device, whose tensors have shapes and no values."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, trust_remote_code=own_code
        )
    return model
