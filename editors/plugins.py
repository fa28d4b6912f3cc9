"""Names that stand for classes of this package or of others, found by entry points."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from typing import Generic, TypeVar, cast

from editors.errors import EditorError

T = TypeVar("T")


class Registry(Generic[T]):
    """What is registered under each name; nothing is imported before it is asked for.

    Another package registers ``name = "package.module:attribute"`` in the entry-point group.
    """

    def __init__(self, kind: str, group: str, own: Mapping[str, str]) -> None:
        """``kind``: what a name stands for, in messages; ``own``: name -> "module:attribute"."""
        self._kind, self._group, self._own = kind, group, own

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(
            sorted({*self._own, *(entry.name for entry in entry_points(group=self._group))})
        )

    def load(self, name: str) -> T:
        """What ``name`` stands for. Raises EditorError, naming the known ones, for another name."""
        if name in self._own:
            module, _, attribute = self._own[name].partition(":")
            return cast("T", getattr(import_module(module), attribute))
        for entry in entry_points(group=self._group, name=name):
            return cast("T", entry.load())
        close = get_close_matches(name.lower(), self.names(), n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise EditorError(
            f"no {self._kind} is called {name!r}", f"{meant}known: {', '.join(self.names())}"
        )
