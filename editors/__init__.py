"""Knowledge editing for decoder language models: a library that never prints.

Public names are resolved on first use. So ``import editors`` is quick, and names that need no
tensors (facts, errors) never load torch. To publish a name, add it under ``TYPE_CHECKING``, to
``_MODULE_OF`` and to ``__all__``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_MODULE_OF = {
    "METHODS": "methods.registry",
    "EditorError": "errors",
    "Fact": "facts",
    "FactClosure": "facts",
    "InvalidConflict": "errors",
    "InvalidFact": "errors",
    "Probe": "facts",
    "PromptTooLong": "errors",
    "StateMismatch": "errors",
    "UnsupportedArchitecture": "errors",
}

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


def __getattr__(name: str) -> object:
    """Import ``name`` from the module that defines it; raises AttributeError if it is not
    public."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'editors' has no attribute {name!r}")
    value = getattr(import_module(f"editors.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
