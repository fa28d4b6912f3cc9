"""Whether one text entails another, as a model for natural language inference sees it.

A checkpoint is loaded by the rules of `editcli.models.loading`: safetensors only, and no code of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from editcli.models.loading import (
    Place,
    device_named,
    find_model,
    hub_config,
    load_tokenizer,
    quiet_libraries,
    reason_of,
)
from editors import EditorError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from editors.conflicts.uncertainty import Entails

ENTAILMENT = "entailment"
PAIRS_AT_ONCE = 64

_HINT = (
    "name a classifier trained for inference: a folder written by `save_pretrained`, or a Hub id"
)


def entails_by(name: str, *, device: str, verbose: int) -> Entails:
    """What the classifier in folder or Hub id `name` takes for entailment: its likeliest label.

    The model runs in float32, whatever its checkpoint is in. `device` and `verbose` are those of
    `load_base`; a pair that is too long for the model is cut.

    Raises:
        UsageError: an unknown or absent device.
        EditorError: the model or its tokenizer cannot be found or loaded, or no label of the model
            is "entailment".
    """
    target = device_named(device)
    with quiet_libraries(verbose):
        place = _found(name)
        config = _config(place)
        label = _label(place, config)
        model = _model(place, config, target)
        tokenizer = load_tokenizer(place)

    def entails(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        # A model that knows no padding takes one pair at a time.
        padded = tokenizer.pad_token_id is not None and config.pad_token_id is not None
        size = PAIRS_AT_ONCE if padded else 1
        parts = [pairs[start : start + size] for start in range(0, len(pairs), size)]
        return [likeliest == label for part in parts for likeliest in _read(model, tokenizer, part)]

    return entails


def _found(name: str) -> Place:
    """Where the checkpoint is; the hints of `editcli.models.loading` are about bases."""
    try:
        place = find_model(name)
        if place.revision is not None:
            hub_config(place)
    except EditorError as error:
        raise EditorError(error.message, _HINT) from error
    return place


def _config(place: Place) -> PreTrainedConfig:
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            place.location, revision=place.revision, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        if "trust_remote_code" in str(error):
            raise EditorError(
                f"{place.shown} needs code of its own, which editcli does not run", _HINT
            ) from error
        raise EditorError(
            f"the configuration of {place.shown} cannot be used: {reason_of(error)}", _HINT
        ) from error
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise EditorError(
            f"{place.shown} is no classifier of texts: its type is {config.model_type!r}", _HINT
        )
    return config


def _label(place: Place, config: PreTrainedConfig) -> int:
    """The index of the label called entailment; "not_entailment" is another."""
    for index, label in config.id2label.items():
        if str(label).casefold() == ENTAILMENT:
            return int(index)
    labels = ", ".join(str(label) for label in config.id2label.values())
    raise EditorError(f"{place.shown} has no label {ENTAILMENT!r}: its labels are {labels}", _HINT)


def _model(place: Place, config: PreTrainedConfig, target: torch.device) -> PreTrainedModel:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification

    try:
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            place.location,
            revision=place.revision,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise EditorError(
            f"the weights of {place.shown} cannot be loaded: {reason_of(error)}",
            "weights are read from .safetensors files only",
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise EditorError(
            f"{place.shown} lacks {len(missing)} of the weights, {missing[0]} among them",
            "the checkpoint is incomplete, or is no classifier of texts",
        )
    try:
        placed: PreTrainedModel = model.eval().to(target)
    except torch.OutOfMemoryError as error:
        raise EditorError(
            f"{place.shown} does not fit into the memory of {target}", "`--device cpu`"
        ) from error
    return placed


def _read(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]
) -> list[int]:
    """The likeliest label of each pair."""
    import torch

    longest = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    encoded = tokenizer(
        [premise for premise, _ in pairs],
        [hypothesis for _, hypothesis in pairs],
        padding=len(pairs) > 1,
        truncation=True,
        max_length=min(longest, tokenizer.model_max_length),
        return_tensors="pt",
    )
    with torch.inference_mode():
        logits = model(**encoded.to(model.device)).logits  # [pairs, labels]
    found: list[int] = logits.argmax(1).tolist()
    return found
