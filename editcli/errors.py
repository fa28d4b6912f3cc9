"""Errors that only the application knows, with their exit codes."""

from __future__ import annotations

from typing import ClassVar

from editcli import exit_codes
from editors import EditorError


class UsageError(EditorError):
    """The command was given something it cannot work with: a file, a flag or a value."""

    exit_code: ClassVar[int] = exit_codes.USAGE


class UnknownVersion(EditorError):
    """No version, and no tag, has this name."""


class Interrupted(EditorError):
    """Ctrl-C, where there is more to say than that."""

    exit_code: ClassVar[int] = exit_codes.INTERRUPTED


class FactsRefused(EditorError):
    """Some lines of a fact file were refused."""

    exit_code: ClassVar[int] = exit_codes.SOME_REFUSED


class BelowThreshold(EditorError):
    """A score lies beyond what was asked for."""

    exit_code: ClassVar[int] = exit_codes.BELOW_THRESHOLD
