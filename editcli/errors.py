"""Errors that only the application knows, with their exit codes and kinds."""

from __future__ import annotations

from editcli import exit_codes
from editors import EditorError


class UsageError(EditorError):
    """The command was given a file, a flag or a value that it cannot use."""

    exit_code = exit_codes.USAGE
    kind = "usage"


class NoStore(EditorError):
    """There is no store where one was looked for."""

    kind = "no_store"


class StoreLocked(EditorError):
    """Another process writes to the store."""

    kind = "store_locked"


class UnknownVersion(EditorError):
    """No version, and no tag, has this name."""

    kind = "unknown_version"


class ServerClosing(EditorError):
    """The server ends, and answers nothing more."""

    kind = "server_closing"


class Interrupted(EditorError):
    """Ctrl-C was pressed, and the hint says how to go on."""

    exit_code = exit_codes.INTERRUPTED
    kind = "interrupted"


class FactsRefused(EditorError):
    """Some lines of a fact file or a conflict file were refused."""

    exit_code = exit_codes.SOME_REFUSED
    kind = "lines_refused"


class BelowThreshold(EditorError):
    """A score is beyond its limit."""

    exit_code = exit_codes.BELOW_THRESHOLD
    kind = "below_threshold"


class SystemRefused(EditorError):
    """The operating system refused something: a full disk, a folder without permission."""

    kind = "system"


class Defect(EditorError):
    """An error that nobody foresaw, which is a defect of editcli or of a library."""

    kind = "defect"
