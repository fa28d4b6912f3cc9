"""What a prompt asks, with the name of its subject taken out.

The name is replaced by ``MARK``, so that only the question is left, and earlier sentences are
cut off, as the last sentence with the name holds the question.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

MARK = "\N{OBJECT REPLACEMENT CHARACTER}"  # stands for the subject
FILLER = "this one"  # instead of the mark, for a model that has no token for it
_ARTICLE = re.compile(rf"\b[Tt]he (?={MARK})")  # "the Hindenburg": the mark alone
# A mark, and white space before something that may begin a sentence.
_SENTENCE_END = re.compile(rf"""[.!?]["')\]]*\s+(?=[^\s\W]|["'(\[{MARK}])|\n+""")
_ABBREVIATION = re.compile(r"(?:\b\w|\b(?:St|Mr|Mrs|Ms|Dr|Mt|No|vs|Jr|Sr))\.\s*\Z")


def filled(text: str, place: str) -> str:
    """``text`` with ``MARK`` for each ``place``."""
    return _ARTICLE.sub("", text.replace(place, MARK))


def masked(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """``text`` with ``MARK`` for each of ``spans`` (start and end, ascending, apart), and nowhere
    else."""
    text, parts, done = text.replace(MARK, " "), [], 0
    for start, end in spans:
        parts += [text[done:start], MARK]
        done = end
    return _ARTICLE.sub("", "".join([*parts, text[done:]]))


def sentences(text: str) -> list[str]:
    """``text`` in sentences and lines, with the white space between them."""
    ends = [
        end.end()
        for end in _SENTENCE_END.finditer(text)
        if not _ABBREVIATION.search(text, 0, end.start() + 1)
    ]
    return [text[start:end] for start, end in pairwise([0, *ends, len(text)]) if start < end]


def asking_part(text: str) -> str:
    """``text`` from the beginning of the sentence with the last ``MARK``; without one, from the
    beginning of the last sentence."""
    parts = sentences(text)
    first = next((i for i in reversed(range(len(parts))) if MARK in parts[i]), len(parts) - 1)
    return "".join(parts[first:])
