"""One module per editing method; the module's name is the method's name."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

from editors.errors import EditorError


def methods_available() -> tuple[str, ...]:
    """The names of all methods, sorted; nothing is imported to find them."""
    return tuple(
        sorted(
            module.name
            for module in iter_modules([str(Path(__file__).parent)])
            if module.ispkg and module.name != "training"
        )
    )


def load_method(name: str) -> ModuleType:
    """The module of the method ``name``. Raises EditorError, naming the known ones, for another."""
    known = methods_available()
    if name not in known:
        close = get_close_matches(name.lower(), known, n=1)
        suggestion = f"did you mean `--method {close[0]}`? " if close else ""
        raise EditorError(
            f"no method is called {name!r}", f"{suggestion}known: {', '.join(known) or 'none'}"
        )
    return import_module(f"editors.methods.{name}.method")
