"""Following HEAD: new versions are served as soon as they are in the store."""

from __future__ import annotations

from threading import Event, Thread
from types import TracebackType

from editcli.cli.console import Output
from editcli.serve.catalogue import Catalogue
from editcli.store.files.layout import Layout
from editcli.store.store import Store
from editors import EditorError

EVERY_S = 0.5


class Reloader:
    """Between ``with`` and its end, looks at the store every half a second.

    Requests that have come before a new version are answered by the old one.
    """

    def __init__(self, store: Store, catalogue: Catalogue, out: Output) -> None:
        self._database = Layout(store.path).database
        self._catalogue, self._out = catalogue, out
        self._over = Event()
        self._thread = Thread(target=self._watch, name="editcli-reload", daemon=True)

    def __enter__(self) -> Reloader:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        seen: tuple[int, int] | None = None
        while not self._over.wait(EVERY_S):
            try:
                stat = self._database.stat()
            except OSError:  # the next look may find it
                continue
            if seen == (stat.st_mtime_ns, stat.st_size):
                continue
            seen = stat.st_mtime_ns, stat.st_size
            try:
                if self._catalogue.follow():
                    self._out.note(f"serving {self._catalogue.current.id}")
            except EditorError as error:
                serving = self._catalogue.current.id
                self._out.warn(f"still serving {serving}: {error.message}", error.hint)
