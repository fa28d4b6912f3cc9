"""The exit codes of the command line."""

from __future__ import annotations

from collections.abc import Mapping

OK = 0
FAILED = 1
USAGE = 2
BELOW_THRESHOLD = 3
SOME_REFUSED = 4
INTERRUPTED = 130

MEANINGS: Mapping[int, str] = {
    OK: "done",
    FAILED: "failed",
    USAGE: "wrong usage",
    BELOW_THRESHOLD: "a score is beyond its limit",
    SOME_REFUSED: "some lines were refused",
    INTERRUPTED: "interrupted",
}
"""What each code means in a few words, as `editcli --help` and docs/exit-codes.md have them."""
