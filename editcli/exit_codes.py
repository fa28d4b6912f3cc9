"""The exit codes of the command line."""

from __future__ import annotations

FAILED = 1
USAGE = 2
BELOW_THRESHOLD = 3
SOME_REFUSED = 4
INTERRUPTED = 130
