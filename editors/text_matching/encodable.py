"""Texts that can be encoded."""

from __future__ import annotations


def is_unicode(value: str) -> bool:
    """Whether a text can be encoded; one with half of a surrogate pair cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
