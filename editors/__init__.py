"""Knowledge editing for decoder language models: a library that never prints.

The public names are listed here. None of them needs a tensor library, so ``import editors`` never
loads torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from editors.errors import (
    EditorError,
    InvalidConflict,
    InvalidFact,
    PromptTooLong,
    StateMismatch,
    UnsupportedArchitecture,
)
from editors.facts import Fact, FactClosure, Probe
from editors.methods.registry import METHODS

if TYPE_CHECKING:
    from editors.exports.loaded_model import LoadedModel

__all__ = [
    "METHODS",
    "EditorError",
    "Fact",
    "FactClosure",
    "InvalidConflict",
    "InvalidFact",
    "Probe",
    "PromptTooLong",
    "StateMismatch",
    "UnsupportedArchitecture",
    "load",
]


def load(export: str | Path, *, base: str | Path | None = None, device: str = "cpu") -> LoadedModel:
    """The edited model that `editcli export --as adapter` wrote to the folder ``export``.

    ``base``: a folder with safetensors or a Hub id, if the base is no longer where it was when the
    edits were exported.

    Raises:
        EditorError: the folder is not an export, or its base cannot be loaded.
        StateMismatch: the base is another one than that of the edits.
        UnsupportedArchitecture: edits would not be answered reliably with the installed libraries.
    """
    from editors.exports.adapter import load_adapter

    return load_adapter(Path(export), base, device)
