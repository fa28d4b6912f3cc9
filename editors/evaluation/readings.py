"""How an answer is read: whether people would say that it gives the wanted answer.

There are three readings. ``exact``: the answer is the wanted one, and stops. ``starts``: it begins
with the wanted one. ``said``: its first sentence holds the wanted answer, and not the old one.

All of them look for whole words, or for the very symbols and digits, and overlook what people
overlook: case, white space, the shape of quotes and dashes, and the accents of Latin and Greek
letters. Case counts in symbols (Co is not CO). Nothing is overlooked where the wanted answer would
then be the old one, as after a correction of its spelling.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

from editors.evaluation.sentences import sentences
from editors.inference.generation import Answer
from editors.text_matching import word_edges

Reading = Literal["exact", "starts", "said"]

Judge = Callable[[Answer, str, str | None], bool]
"""Whether an answer gives the wanted answer (the first text); the second text is the old answer, if
there is one."""


def exact(answer: Answer, wanted: str, old: str | None = None) -> bool:
    """Whether the answer is ``wanted``, with no more than closing marks, and stopped by itself."""
    return answer.stopped and _Name(wanted, old).is_all_of(answer.text)


def starts(answer: Answer, wanted: str, old: str | None = None) -> bool:
    """Whether the answer begins with ``wanted``, and not with a longer ``old`` that begins so. It
    need not stop."""
    name = _Name(wanted, old)
    begins = name.begins(answer.text)
    if old is None or name.is_all_of(old) or not name.begins(old):
        return begins
    return begins and not _Name(old, wanted).begins(answer.text)


def said(answer: Answer, wanted: str, old: str | None = None) -> bool:
    """Whether ``wanted`` stands in the first sentence of the answer, and ``old`` does not, unless
    ``wanted`` holds it. The answer need not stop.

    If ``wanted`` has several sentences, so many of the answer count.
    """
    count = max(1, len(sentences(wanted)))
    first = " ".join(sentences(answer.text)[:count])
    if not _Name(wanted, old).stands_in(first):
        return False
    if old is None:
        return True
    former = _Name(old, wanted)
    return former.stands_in(wanted) or not former.stands_in(first)


READINGS: Mapping[Reading, Judge] = MappingProxyType(
    {"exact": exact, "starts": starts, "said": said}
)


# --- finding a name -------------------------------------------------------------------------------

_MARKS = ".,;:。、"  # close an answer and change nothing
_OPENING = " \"'`*([{“”„‘’«»¿¡「『（《"  # may stand before an answer
# Beside these, a name is a part of another: Guinea-Bissau, AT&T, node.js, C++, 3.5, O'Neil.
_BEFORE = r"(?<!\w[-/&@.])"
_BEFORE_DIGIT = r"(?<![-.,])"
_AFTER = r"(?![+#^]|-(?!-)|[/&@.]\w|[,:]\d|'(?!s\b)\w)"


class _Name:
    """A name to look for, as a whole, in texts that are spelt alike."""

    def __init__(self, name: str, other: str | None) -> None:
        """``other``: what must not be taken for ``name``."""
        self._fold = _fold_of(name, other)
        self._spelt = spelt = _without_marks(self._fold(name))
        self._initial: tuple[str, ...] = (spelt,)
        if spelt[1:].isalpha() and spelt[1:].islower():
            # The first word of a text may have a capital for its place alone.
            self._initial += (spelt[0].swapcase() + spelt[1:],)
        before, after = word_edges(spelt)
        self._before = re.compile(before + _BEFORE + (_BEFORE_DIGIT if spelt[0].isdigit() else ""))
        self._after = re.compile(after + _AFTER)

    def is_all_of(self, text: str) -> bool:
        """Whether ``text`` is the name, and closing marks at most."""
        folded = self._fold(text)
        rest = folded[len(self._spelt) :]
        return folded.startswith(self._initial) and not rest.strip(f" !?{_MARKS}")

    def begins(self, text: str) -> bool:
        """Whether ``text`` begins with the name; quotes and brackets may open it."""
        folded = self._fold(text)
        openings = len(folded) - len(folded.lstrip(_OPENING))
        return any(
            folded.startswith(self._initial, at) and self._ends(folded, at)
            for at in range(openings + 1)
        )

    def stands_in(self, text: str) -> bool:
        """Whether the name stands anywhere in ``text``."""
        folded = self._fold(text)
        at = folded.find(self._spelt)
        while at >= 0:
            if self._before.match(folded, at) and self._ends(folded, at):
                return True
            at = folded.find(self._spelt, at + 1)
        return self.begins(text)

    def _ends(self, folded: str, at: int) -> bool:
        """Whether the name that stands at ``at`` ends there, and no longer one goes on."""
        return self._after.match(folded, at + len(self._spelt)) is not None


def _without_marks(name: str) -> str:
    """``name`` without what closes a sentence; a name of nothing else is left as it is. "!" and "?"
    close one only behind a letter (Yahoo!, but 5!)."""
    core = name.rstrip(f" {_MARKS}")
    bare = core.rstrip("!?")
    return (bare if bare[-1:].isalpha() else core) or name


# --- what is spelt alike --------------------------------------------------------------------------

SYMBOL_LETTERS = 2
ACRONYM_LETTERS = 3

_ALIKE = str.maketrans(
    {**dict.fromkeys("‐‑‒–−", "-"), **dict.fromkeys("—―", " - ")}
    | {**dict.fromkeys("’‘ʼ´`", "'"), **dict.fromkeys("“”„«»", '"')}
    | dict.fromkeys("\u00ad\u200b\u200e\u200f\u2060\ufeff\ufe0e\ufe0f")  # are not seen
)
_THOUSANDS = re.compile("(?<=\\d)[,'\u00a0\u2009\u202f](?=\\d{3}(?!\\d))")
_OTHER_NUMBERS = ("<super>", "<fraction>", "<circle>")  # NFKC would make 102 of 10²
_ACCENTS = re.compile("(?<=[A-Za-z\u0370-\u03ff])[\u0300-\u036f]+")

_Fold = Callable[[str], str]


def _fold_of(name: str, other: str | None) -> _Fold:
    """What makes texts alike in which ``name`` is looked for and ``other`` is something else."""
    fold = _typed if _is_symbol(name) else _spoken
    confused = other is not None and other != name and fold(name) == fold(other)
    return _written if confused or not fold(name) else fold


def _is_symbol(name: str) -> bool:
    """Whether the case of ``name`` counts: one word that begins with a letter and has few of them,
    as Co, H2O, C++ and WHO."""
    letters = [char for char in name if char.lower() != char.upper()]
    few = ACRONYM_LETTERS if all(map(str.isupper, letters)) else SYMBOL_LETTERS
    words = name.split()
    return len(words) == 1 and words[0][0] in letters and len(letters) <= few


def _written(text: str) -> str:
    """``text`` without differences that nobody sees: white space, composed letters."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _typed(text: str) -> str:
    """``text`` without differences between ways of typing it."""
    text = _THOUSANDS.sub("", text.translate(_ALIKE))
    if not unicodedata.is_normalized("NFKC", text):
        text = "".join(map(_compatible, unicodedata.normalize("NFC", text)))
    if not text.isascii():
        text = _ACCENTS.sub("", unicodedata.normalize("NFD", text))
    return _written(text)


def _compatible(char: str) -> str:
    """The plain form of a character, unless that is another number."""
    if unicodedata.decomposition(char).startswith(_OTHER_NUMBERS):
        return char
    return unicodedata.normalize("NFKC", char)


def _spoken(text: str) -> str:
    """``text`` as it would be read aloud: without case, too."""
    return _typed(text).casefold()
