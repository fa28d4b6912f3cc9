"""The errors a user can act on: a sentence about what is wrong and what to do next."""

from __future__ import annotations

from typing import ClassVar


class EditorError(Exception):
    """Something the user can put right.

    `message` is a lower-case sentence carrying the offending values, without a full stop.
    `hint` is the next step, usually a command or a flag in backticks; it may be empty.
    `exit_code` is what a command line should exit with.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UnsupportedArchitecture(EditorError):
    """The model's structure offers no place (or no single place) for what was asked."""


class InvalidFact(EditorError):
    """A fact breaks the schema; the message lists every problem found."""

    exit_code: ClassVar[int] = 2


class InvalidConflict(EditorError):
    """A row of a conflict file breaks the schema; the message lists every problem found."""

    exit_code: ClassVar[int] = 2


class StateMismatch(EditorError):
    """Saved edits belong to another base model, method or setting."""


class PromptTooLong(EditorError):
    """A prompt and its target do not fit the model's context."""
