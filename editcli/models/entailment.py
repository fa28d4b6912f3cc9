"""Whether one text entails another, as a model for natural language inference sees it.

A checkpoint is loaded by the rules of :mod:`editcli.models.loading`: safetensors only, and no code
of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from editcli.models.libraries import device_named, quiet_libraries
from editcli.models.loading import load_config, load_tokenizer, load_weights, move_model
from editcli.models.locations import ModelLocation, find_model, hub_config
from editors import EditorError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from editors.conflicts.uncertainty import Entails

ENTAILMENT = "entailment"
PAIRS_AT_ONCE = 64
KIND = "classifier of texts"

_HINT = (
    "name a classifier trained for inference: a folder written by `save_pretrained`, or a Hub id"
)


def entails_by(name: str, *, device: str, verbose: int) -> Entails:
    """Entailment as the classifier in folder or Hub id ``name`` sees it: its likeliest label.

    The model runs in float32, whatever its checkpoint is in. ``device`` and ``verbose`` are those
    of ``load_base``; a pair that is too long for the model is cut.

    Raises:
        UsageError: an unknown or absent device.
        EditorError: the model or its tokenizer cannot be found or loaded, or no label of the model
            is "entailment".
    """
    import torch
    from transformers import (
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        AutoModelForSequenceClassification,
    )

    target = device_named(device)
    with quiet_libraries(verbose):
        location = _find_classifier(name)
        try:
            config = load_config(location, KIND, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, _HINT)
        except EditorError as error:
            raise EditorError(error.message, _HINT) from error
        label = _label(location, config)
        loader = AutoModelForSequenceClassification
        model = load_weights(loader, location, config, KIND, target, dtype=torch.float32).eval()
        move_model(model, target, location)
        tokenizer = load_tokenizer(location)

    def entails(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        # A model without a padding token takes one pair at a time.
        padded = tokenizer.pad_token_id is not None and config.pad_token_id is not None
        size = PAIRS_AT_ONCE if padded else 1
        parts = [pairs[start : start + size] for start in range(0, len(pairs), size)]
        return [
            likeliest == label
            for part in parts
            for likeliest in _likeliest_labels(model, tokenizer, part)
        ]

    return entails


def _find_classifier(name: str) -> ModelLocation:
    """Where the classifier is. Its errors have a hint of their own: those of
    :mod:`editcli.models.locations` are about bases."""
    try:
        location = find_model(name)
        if location.revision is not None:
            hub_config(location)
    except EditorError as error:
        raise EditorError(error.message, _HINT) from error
    return location


def _label(location: ModelLocation, config: PreTrainedConfig) -> int:
    """The index of the label called entailment; "not_entailment" is another."""
    for index, label in config.id2label.items():
        if str(label).casefold() == ENTAILMENT:
            return int(index)
    labels = ", ".join(str(label) for label in config.id2label.values())
    raise EditorError(
        f"{location.shown} has no label {ENTAILMENT!r}: its labels are {labels}", _HINT
    )


def _likeliest_labels(
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
    labels: list[int] = logits.argmax(1).tolist()
    return labels
