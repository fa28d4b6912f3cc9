"""The errors that a user can act on. Each says what is wrong and what to do next."""

from __future__ import annotations

from typing import ClassVar


class EditorError(Exception):
    """An error that the user can correct.

    ``message`` is a lower-case sentence that names the offending values, without a full stop.
    ``hint`` is the next step, usually a command or an option in backticks; it may be empty.
    ``exit_code`` is the exit status for a command line, and ``kind`` tells a program what is wrong.
    """

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "failed"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UnsupportedArchitecture(EditorError):
    """The structure of the model does not allow what was requested."""

    kind: ClassVar[str] = "unsupported_architecture"


class InvalidFact(EditorError):
    """A fact breaks the schema. The message lists every problem."""

    exit_code: ClassVar[int] = 2
    kind: ClassVar[str] = "invalid_fact"


class InvalidConflict(EditorError):
    """A row of a conflict file breaks the schema. The message lists every problem."""

    exit_code: ClassVar[int] = 2
    kind: ClassVar[str] = "invalid_conflict"


class StateMismatch(EditorError):
    """Saved edits are damaged, or belong to another base model, method or setting."""

    kind: ClassVar[str] = "state_mismatch"


class PromptTooLong(EditorError):
    """A prompt, with its target or answer, is longer than the model's context."""

    kind: ClassVar[str] = "prompt_too_long"
