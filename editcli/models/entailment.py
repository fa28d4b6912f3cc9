"""Whether one text entails another, as a model for natural language inference sees it.

A checkpoint is loaded by the rules of :mod:`editcli.models.loading`: safetensors only, and no code
of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from editcli.models.libraries import device_named, quiet_libraries
from editcli.models.loading import load_config, load_tokenizer, load_weights
from editcli.models.locations import find_model
from editors import EditorError

if TYPE_CHECKING:
    from editors.conflicts.uncertainty import Entails

ENTAILMENT = "entailment"
PAIRS_AT_ONCE = 64
KIND = "classifier of text"

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
        try:
            location = find_model(name)
            if location.gguf:
                raise EditorError(f"{name} is a GGUF file", _HINT)
            config = load_config(location, KIND, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING)
        except EditorError as error:  # whose own hint is about bases
            raise EditorError(error.message, _HINT) from error
        labels = {str(label).casefold(): int(index) for index, label in config.id2label.items()}
        if ENTAILMENT not in labels:
            named = ", ".join(map(str, config.id2label.values()))
            raise EditorError(
                f"{location.shown} has no label {ENTAILMENT!r}: its labels are {named}", _HINT
            )
        loader = AutoModelForSequenceClassification
        model = load_weights(loader, location, config, KIND, target, dtype=torch.float32).eval()
        tokenizer = load_tokenizer(location)
    # A model without a padding token takes one pair at a time.
    padded = tokenizer.pad_token_id is not None and config.pad_token_id is not None
    size = PAIRS_AT_ONCE if padded else 1
    context = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    longest = min(context, tokenizer.model_max_length)

    @torch.inference_mode()
    def entails(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        found: list[bool] = []
        for start in range(0, len(pairs), size):
            premises, hypotheses = zip(*pairs[start : start + size], strict=True)
            encoded = tokenizer(
                list(premises),
                list(hypotheses),
                padding=padded,
                truncation=True,
                max_length=longest,
                return_tensors="pt",
            )
            logits = model(**encoded.to(target)).logits  # [pairs, labels]
            found += (logits.argmax(1) == labels[ENTAILMENT]).tolist()
        return found

    return entails
