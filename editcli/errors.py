"""Errors that only the application knows, with their exit codes."""

from __future__ import annotations

from typing import ClassVar

from editors import EditorError


class UsageError(EditorError):
    """The command was given something it cannot work with: a file, a flag or a value."""

    exit_code: ClassVar[int] = 2


class UnknownVersion(EditorError):
    """No version, and no tag, has this name."""


class Interrupted(EditorError):
    """Ctrl-C, where there is more to say than that."""

    exit_code: ClassVar[int] = 130


class FactsRefused(EditorError):
    """Some lines of a fact file were refused."""

    exit_code: ClassVar[int] = 4


class BelowThreshold(EditorError):
    """A score lies beyond what was asked for."""

    exit_code: ClassVar[int] = 3
