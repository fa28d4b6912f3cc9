"""What a server answers from, by the names that requests give it."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from editcli.errors import UnknownVersion
from editcli.operations.session import Session
from editcli.serve.engine import Served
from editcli.store.files.layout import STORE_DIR
from editcli.store.records import Version

BASE = "base"
KEPT = 4  # versions whose edits stay in memory

_UNNAMED = "editcli"  # a store in a folder whose name means something else here


class Catalogue:
    """The served version, all versions and tags of the store, and the unedited base.

    Threads may share it.
    """

    def __init__(self, session: Session, ref: str) -> None:
        """``ref``: the version that is served under the name of the store; one that moves, as HEAD
        or a tag, is followed by :meth:`follow`.

        Raises:
            UnknownVersion: there is no such version.
            EditorError: its edits cannot be read.
        """
        self._session, self._ref = session, ref
        self._opened: OrderedDict[str, Served] = OrderedDict()
        self._lock = Lock()
        self._base = Served(BASE, None)
        self._current = self._open(session.store.version(ref))
        path = session.store.path.resolve()
        name = path.parent.name if path.name == STORE_DIR else path.name
        self._name = _UNNAMED if name in ("", BASE, *self._versions()) else name

    @property
    def name(self) -> str:
        """The name of the store: that of its folder, or of the folder that holds ``.editcli``."""
        return self._name

    @property
    def current(self) -> Served:
        """The version that is served under the name of the store."""
        return self._current

    def names(self) -> list[str]:
        """All names that a request may give."""
        return [self.name, BASE, *self._versions()]

    def find(self, name: str) -> Served:
        """What the model called ``name`` answers from.

        Raises:
            UnknownVersion: there is no model of this name.
            EditorError: its edits cannot be read.
        """
        if name == self.name:
            return self.current
        if name == BASE:
            return self._base
        with self._lock:
            if name in self._opened:  # an id always means the same version
                return self._opened[name]
        try:
            return self._open(self._session.store.version(name))
        except UnknownVersion:
            made, names = self._made(), [*self._session.store.refs()]
            known = ", ".join(
                [self.name, BASE, *names, f"and the versions {made[0]} to {made[-1]}"]
            )
            raise UnknownVersion(f"no model is called {name!r}", f"there are {known}") from None

    def follow(self) -> bool:
        """Serve the version that the ref means now; returns whether it is another than before.

        Raises the errors of :meth:`find`; the version of before is then served on.
        """
        before, self._current = self._current, self._open(self._session.store.version(self._ref))
        return self._current is not before

    def _versions(self) -> list[str]:
        """The ids of all versions, then HEAD and all tags."""
        return [*self._made(), *self._session.store.refs()]

    def _made(self) -> list[str]:
        """The ids of all versions."""
        return self._session.store.ids()

    def _open(self, version: Version) -> Served:
        """The edits of ``version``, from memory where they are there. Equal versions are the same
        object, so that the engine answers them together."""
        with self._lock:
            if version.id not in self._opened:
                self._opened[version.id] = Served(version.id, self._session.state(version))
            self._opened.move_to_end(version.id)
            if len(self._opened) > KEPT:
                unused = (name for name, held in self._opened.items() if held is not self._current)
                del self._opened[next(unused)]
            return self._opened[version.id]
