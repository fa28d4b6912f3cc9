"""Errors that only the application knows, with their exit codes."""

from __future__ import annotations

from editcli import exit_codes
from editors import EditorError


class UsageError(EditorError):
    """The command was given a file, a flag or a value that it cannot use."""

    exit_code = exit_codes.USAGE


class UnknownVersion(EditorError):
    """No version, and no tag, has this name."""


class ServerClosing(EditorError):
    """The server ends, and answers nothing more."""


class Interrupted(EditorError):
    """Ctrl-C was pressed, and the hint says how to go on."""

    exit_code = exit_codes.INTERRUPTED


class FactsRefused(EditorError):
    """Some lines of a fact file or a conflict file were refused."""

    exit_code = exit_codes.SOME_REFUSED


class BelowThreshold(EditorError):
    """A score is beyond its limit."""

    exit_code = exit_codes.BELOW_THRESHOLD


class StoreLocked(EditorError):
    """Another process writes to the store."""
