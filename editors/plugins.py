"""Named classes of this package, and of other packages that register them as entry points."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import Generic, TypeVar, cast

from editors.errors import EditorError

T = TypeVar("T")


class Registry(Generic[T]):
    """Objects registered under names. An object is imported only when it is loaded.

    Another package registers ``name = "package.module:attribute"`` in the entry-point group.
    """

    def __init__(self, kind: str, group: str, built_in: Mapping[str, str]) -> None:
        """``kind``: what a name stands for, in messages; ``group``: the entry-point group;
        ``built_in``: name -> "module:attribute"."""
        self._kind, self._group, self._built_in = kind, group, built_in

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted({*self._built_in, *entry_points(group=self._group).names}))

    def module_of(self, name: str) -> str | None:
        """The module of the object registered as ``name``; None: no object has that name."""
        if name in self._built_in:
            return self._built_in[name].partition(":")[0]
        return next((e.module for e in entry_points(group=self._group, name=name)), None)

    def load(self, name: str) -> T:
        """The object registered as ``name``.

        Raises:
            EditorError: no object has that name; the registered names are listed.
        """
        if name in self._built_in:
            return cast("T", resolve_name(self._built_in[name]))
        for entry in entry_points(group=self._group, name=name):
            return cast("T", entry.load())
        close = get_close_matches(name.lower(), self.names(), n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise EditorError(
            f"no {self._kind} is called {name!r}", f"{meant}known: {', '.join(self.names())}"
        )
