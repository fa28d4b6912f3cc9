"""Where sentences end in the text of a model, in any script.

The rules need no language, but for a few English abbreviations and first words. In doubt a sentence
goes on.
"""

from __future__ import annotations

import re

_ALWAYS = "。｡！？।॥؟۔։።፧។៕။༎"  # marks that end a sentence though no space follows
_STOP = re.compile(
    rf"(?P<marks>[{_ALWAYS}]+|[.!?]+(?=[^\w\s]*(?:\s|\Z)))[\"'”’»)\]*_」』）》]*|(?P<break>\s*\n\s*)"
)
_LAST_WORD = re.compile(r"[\w.]*\Z")
_NEXT_WORD = re.compile(r"\W*(\w*)")
_LIST_NUMBER = re.compile(r"\W*\d{1,3}")  # 1 (of 1. Lyon)
_BEFORE_NUMBER = re.compile("(?i:nos?|nr|figs?|vols?|ch|pp?|art|sec|approx|ca)")
_BEFORE_NAME = re.compile(
    r"(?i:st|ste|mt|ft|mrs?|ms|mme|mlle|sra|dr|prof|gen|col|maj|capt|lt|sgt|sen|rep|gov|rev|hon|vs)"
    r"|(?:[^\W\d_]\.)*[^\W\d_]"  # J (of J. R.), U.S
)
_FIRST_WORD = re.compile(
    "The|An?|Its?|H[ei]s?|She|Her|Their|They|We|You|This|That|These|Those|There|Here|I[nft]?|On|At|"
    "As|By|For|From|To|Of|With|Wh(?:en|ile|ere|o|at|ich|y)|How|And|But|Or|So|Yet|However|Also|"
    "Although|Because|Since|After|Before|During|Today|Now|Then"
)


def sentences(text: str) -> list[str]:
    """The sentences of ``text`` in order, each with the marks that end it; a line break ends one,
    too."""
    found, start = [], 0
    for stop in _STOP.finditer(text):
        if _ends(text[start : stop.start()], stop, text[stop.end() :]):
            found.append(text[start : stop.end()].strip())
            start = stop.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


def _ends(before: str, stop: re.Match[str], after: str) -> bool:
    """Whether ``stop`` ends the sentence that has begun with ``before``."""
    if not before.strip():
        return False
    follows = _NEXT_WORD.match(after)
    following = follows[1] if follows else ""
    marks = stop["marks"]
    if marks and marks[0] in _ALWAYS:
        return True
    if following[:1].islower():  # Yahoo! is; Inc. was; a line that is merely wrapped
        return False
    if marks is None:
        return before.rstrip()[-1] not in ",:;"  # The answer is:
    if marks != ".":
        return bool(marks.strip("."))  # dots alone leave a thought open
    word = _LAST_WORD.search(before)
    last = word[0] if word else ""
    if _LIST_NUMBER.fullmatch(before):
        return False
    if following[:1].isdigit() and _BEFORE_NUMBER.fullmatch(last):
        return False
    if following and _BEFORE_NAME.fullmatch(last):
        return _FIRST_WORD.fullmatch(following) is not None
    return True
