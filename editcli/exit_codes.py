"""What the command line exits with."""

from __future__ import annotations

OK = 0
FAILED = 1
USAGE = 2
BELOW_THRESHOLD = 3
SOME_REFUSED = 4
INTERRUPTED = 130
