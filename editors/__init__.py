"""Knowledge editing for decoder language models: a library that never prints.

Public names are resolved on first use, so that ``import editors`` costs nothing and names that
need no tensor (facts, errors) never load torch. To publish a name, add it under ``TYPE_CHECKING``
and to ``_MODULE_OF``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from editors.errors import (
        EditorError,
        InvalidConflict,
        InvalidFact,
        NotMergeable,
        PromptTooLong,
        StateMismatch,
        UnsupportedArchitecture,
    )
    from editors.facts import Closed, Fact, Probe
    from editors.methods.registry import load_method, methods_available

_MODULE_OF = {
    "Closed": "facts",
    "EditorError": "errors",
    "Fact": "facts",
    "InvalidConflict": "errors",
    "InvalidFact": "errors",
    "NotMergeable": "errors",
    "Probe": "facts",
    "PromptTooLong": "errors",
    "StateMismatch": "errors",
    "UnsupportedArchitecture": "errors",
    "load_method": "methods.registry",
    "methods_available": "methods.registry",
}

__all__ = [
    "Closed",
    "EditorError",
    "Fact",
    "InvalidConflict",
    "InvalidFact",
    "NotMergeable",
    "Probe",
    "PromptTooLong",
    "StateMismatch",
    "UnsupportedArchitecture",
    "load_method",
    "methods_available",
]


def __getattr__(name: str) -> object:
    """Import the module that defines `name`; raises AttributeError for a name not public."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'editors' has no attribute {name!r}")
    value = getattr(import_module(f"editors.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
