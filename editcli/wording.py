"""Numbers and times as people read them, and a warning of several commands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

STALE_HEADS = (
    "the pruned heads were ranked with other edits in force",
    "`editcli conflict resolve` ranks them again",
)
"""A warning and its hint."""


def counted(number: int, noun: str) -> str:
    """A number and its noun: "1 fact", "3 facts"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def counted_are(number: int, noun: str) -> str:
    """The same with its verb: "1 fact is", "3 facts are"."""
    return f"{counted(number, noun)} {'is' if number == 1 else 'are'}"


def listed(names: Sequence[str], shown: int) -> str:
    """The first ``shown`` of the names, and how many more there are; "none" without any."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more if names else "none"


def local_time(moment: str) -> str:
    """An ISO 8601 time with its zone, as people here read it: 2026-03-01 12:03."""
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M")


SHOW_ANSWERS = "`editcli check --per-fact` shows what the model says"
"""The hint where facts are not answered."""

PURGED = "(purged)"
"""What is shown in place of a text that was purged."""
