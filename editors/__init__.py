"""Knowledge editing for decoder language models: a library that never prints.

The public names are listed here. None of them needs a tensor library, so ``import editors`` never
loads torch.
"""

from __future__ import annotations

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
]
