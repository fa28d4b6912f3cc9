"""Sentence encoders: where they are, and how they are loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from editors.errors import EditorError
from editors.scope.relation.encoders.packages import (
    how_to_install,
    is_packaged,
    packaged_folder,
)

_POOLING = Path("1_Pooling", "config.json")  # of sentence-transformers


@dataclass(frozen=True, slots=True, eq=False)
class SentenceModel:
    """A sentence encoder. ``first_token``: the state of the first token is the direction of a text;
    otherwise the mean of all states is."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    first_token: bool

    def linear_maps(self) -> list[torch.nn.Linear]:
        """The linear maps of the model, first to last. A pooler has none that count."""
        return [
            module
            for name, module in self.model.named_modules()
            if isinstance(module, torch.nn.Linear) and "pooler" not in name
        ]

    def states(self, ids: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """The direction of each text, ``[texts, hidden]``, not of length 1. ``ids``: int64
        ``[texts, tokens]``; ``real``: bool of that shape, False at pads."""
        output = self.model(input_ids=ids, attention_mask=real.long())
        states: torch.Tensor = output.last_hidden_state
        if self.first_token:
            return states[:, 0]
        return (states * real[..., None]).sum(1) / real.sum(1, keepdim=True)

    def fingerprint(self) -> str:
        """The hex SHA-256 of the last linear map and of the number of all."""
        *_, last = maps = self.linear_maps()
        digest = hashlib.sha256(last.weight.detach().float().contiguous().numpy().tobytes())
        return hashlib.sha256(f"{digest.hexdigest()} {len(maps)}".encode()).hexdigest()


def load_sentence_model(name: str) -> SentenceModel:
    """The sentence encoder ``name``: "minilm", a folder of sentence-transformers or transformers,
    or a Hub id.

    Raises:
        EditorError: there is no such encoder, or it cannot be read.
    """
    place = _place(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
        model = AutoModel.from_pretrained(place, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise EditorError(
            f"the sentence encoder {name!r} cannot be read: {str(error).splitlines()[0]}",
            "an encoder is `minilm`, a folder of sentence-transformers, or a Hub id",
        ) from error
    tokenizer.truncation_side = "left"
    return SentenceModel(model.eval().requires_grad_(False), tokenizer, _first_token(Path(place)))


def model_folder(name: str) -> Path:
    """The folder of the sentence encoder ``name``; of a Hub id, that in the Hub's cache.

    Raises:
        EditorError: the encoder is not on this machine.
    """
    place = Path(_place(name))
    if place.is_dir():
        return place
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError) as error:
        raise EditorError(
            f"the sentence encoder {name!r} is not on this machine", "load it once from the Hub"
        ) from error


def _place(name: str) -> str:
    if not is_packaged(name):
        return str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    folder = packaged_folder(name)
    if folder is None:
        raise EditorError(f"the sentence encoder {name!r} is not installed", how_to_install(name))
    return str(folder)


def _first_token(folder: Path) -> bool:
    if not (folder / _POOLING).is_file():
        return False
    config: dict[str, Any] = json.loads((folder / _POOLING).read_text(encoding="utf-8"))
    return bool(config.get("pooling_mode_cls_token"))
