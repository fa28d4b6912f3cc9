"""The edits of one version at a time, attached to the base of a session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from editcli.operations.session import Session

if TYPE_CHECKING:
    from editors.inference.edited_model import EditedModel
    from editors.methods.edit_state import EditState


class Attachment:
    """Keeps the edits that were used last attached, as the next prompt mostly asks for the same.

    At the end of ``with``, the base is as it was. To be used by one thread.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stack = ExitStack()
        self._attached: tuple[EditState, EditedModel] | None = None

    @contextmanager
    def using(self, state: EditState | None) -> Iterator[EditedModel]:
        """Inside ``with``, the base with the edits ``state``; None: the unedited base."""
        from editors.inference.edited_model import EditedModel

        base = self._session.base
        if state is None:  # what is attached lets probing forwards pass
            with base.probing():
                yield EditedModel.unedited(base)
            return
        if self._attached is None or self._attached[0] is not state:
            self.detach()
            model = self._stack.enter_context(self._session.method.attach(state))
            self._attached = state, model
        yield self._attached[1]

    def detach(self) -> None:
        """Take all edits off the base."""
        self._attached = None
        self._stack.close()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()
