"""Names in texts: folding, so that two spellings of one name are equal, and whole words.

A name is compared without case, in Unicode's form NFKC. Curly and straight apostrophes and quotes
are one, and so are dashes of all kinds. White space of any kind and length is one space. Characters
without a width do not count. Accents count: Peru is not Perú.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from editors.text_matching import UNSPACED

WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")

SIGNS = 8  # the most signs in a row that may join two words

_ARTICLE = re.compile(r"\Athe\s+")
_PIECE = re.compile(r"[!-~](?:[!-~]| (?=[!-~]))*(?![^\x00-\x7f])|\s+|.", re.DOTALL)
_IRREGULAR_SPACE = re.compile(r"[^\S ]|  ")
_UNSPACED_CHARACTER = re.compile(f"[{UNSPACED}]")
_ALIKE = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02b9\u02bc\u02bb\u00b4`", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"')
    | {"\u2212": "-"}
)


@dataclass(frozen=True, slots=True)
class Folded:
    """A folded text. ``starts[i]`` and ``ends[i]``: the span, in the ``original``, of what became
    character ``i`` of ``text``."""

    original: str
    text: str
    starts: Sequence[int]
    ends: Sequence[int]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where ``text[start:end]``, which is not empty, stands in the original."""
        return self.starts[start], self.ends[end - 1]

    def is_whole(self, start: int, end: int) -> bool:
        """Whether ``text[start:end]`` is not a part of a longer word.

        In a script without spaces, the edge of a word cannot be seen, so any edge is one.
        """
        return self._is_edge(start) and self._is_edge(end)

    def _is_edge(self, at: int) -> bool:
        text = self.text
        if at in (0, len(text)):
            return True
        before, after = text[at - 1], text[at]
        if _in_word(before) and _in_word(after):
            return False
        if _unspaced(before) or _unspaced(after):
            return True
        return not _is_joined(self, at)


def _is_joined(folded: Folded, at: int) -> bool:
    """Whether a sign joins the words on both sides of this place: C++, Node.js, U.S.A., AT&T."""
    text = folded.text
    before, after = text[at - 1], text[at]
    next_to = text[at + 1 : at + 2]
    if before in "+#":
        return after in "+#" or (_in_word(after) and _in_word(_before_signs(text, at)))
    if _in_word(before):
        if after in "&@_":
            return _in_word(next_to)
        return after in "+#" or (after == "." and _continues(folded, at + 1))
    if _in_word(after):
        if before == ".":
            return _in_word(text[at - 2 : at - 1]) and _continues(folded, at)
        return before == "@" or (before in "&_" and _in_word(_before_signs(text, at)))
    return False


def _before_signs(text: str, at: int) -> str:
    """The character before the signs that end at this place."""
    return text[max(at - SIGNS, 0) : at].rstrip("+#&_")[-1:]


def _continues(folded: Folded, at: int) -> bool:
    """Whether the word at this place goes on after a full stop: it does not begin as a sentence
    does, with one capital."""
    if not _in_word(folded.text[at : at + 1]):
        return False
    start, end = folded.span(at, at + 1)
    return not (folded.original[start].isupper() and folded.original[end : end + 1].islower())


def folded(text: str) -> Folded:
    """``text``, folded. Folding a folded text changes nothing."""
    if text.isascii() and not _IRREGULAR_SPACE.search(text):
        count = len(text)
        return Folded(text, text.lower().translate(_ALIKE), range(count), range(1, count + 1))
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for start, end in _pieces(text):
        piece = text[start:end]
        if piece.isspace():
            piece = " "
        elif piece.isascii():
            pieces.append(piece.lower().translate(_ALIKE))
            starts.extend(range(start, end))
            ends.extend(range(start + 1, end + 1))
            continue
        else:
            piece = _folded_cluster(piece)
        if piece.startswith(" ") and pieces and pieces[-1][-1] == " ":
            ends[-1] = end
            piece = piece[1:]
        if piece:
            pieces.append(piece)
            starts.extend([start] * len(piece))
            ends.extend([end] * len(piece))
    return Folded(text, "".join(pieces), starts, ends)


def without_article(name: str) -> str:
    """``name`` without "the" in lower case and without white space at its ends: "the UK" is UK, but
    "The Who" is a name of its own."""
    return _ARTICLE.sub("", name.strip())


def folded_name(name: str) -> str:
    """``name``, folded, without an article. Names are the same where this is equal."""
    return folded(without_article(name)).text.strip()


def whole_word_spans(name: str, text: str) -> list[tuple[int, int]]:
    """Where ``text`` has ``name``, folded, as whole words: spans of ``text`` that do not
    overlap."""
    sought, within = folded_name(name), folded(text)
    return [within.span(*span) for span in _spans(sought, within)]


def nearest_words(name: str, text: str) -> str | None:
    """The words of ``text`` that are most like ``name``, as they stand; None if none is like it."""
    sought, within = folded_name(name), folded(text)
    words = [match.span() for match in WORD.finditer(within.text)]
    count = len(WORD.findall(sought))
    best, nearest = 0.5, None
    for size in {count, count + 1, max(count - 1, 1)}:
        for first, last in zip(words, words[size - 1 :], strict=False):
            ratio = SequenceMatcher(None, sought, within.text[first[0] : last[1]]).ratio()
            if ratio > best:
                best, nearest = ratio, (first[0], last[1])
    if nearest is None:
        return None
    start, end = nearest
    while not within.is_whole(end, end):  # C++, where C is sought
        end += 1
    start, end = within.span(start, end)
    return text[start:end]


def _spans(sought: str, within: Folded) -> Iterator[tuple[int, int]]:
    start = within.text.find(sought) if sought else -1
    while start >= 0:
        end = start + len(sought)
        whole = within.is_whole(start, end)
        if whole:
            yield start, end
        start = within.text.find(sought, end if whole else start + 1)


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """Spans that can be folded one by one: white space, ASCII, and a character with its marks."""
    end = 0
    for match in _PIECE.finditer(text):
        start = match.start()
        if start < end:  # a mark of the piece before
            continue
        end = match.end()
        if end - start == 1 and not match.group().isspace():
            while end < len(text) and _is_mark(text[end]):
                end += 1
        yield start, end


def _is_mark(character: str) -> bool:
    """Whether ``character`` may change or vanish in the one before it."""
    if character.isascii():
        return False
    first = unicodedata.normalize("NFKC", character)[0]
    vowel_or_final = "\u1160" <= first <= "\u11ff"  # of a Hangul syllable
    return vowel_or_final or unicodedata.category(first) in ("Mn", "Mc", "Me", "Cf")


def _folded_cluster(cluster: str) -> str:
    visible = "".join(map(_visible, cluster)).translate(_ALIKE)
    flat = unicodedata.normalize("NFKC", visible)
    while (again := unicodedata.normalize("NFKC", flat.casefold()).translate(_ALIKE)) != flat:
        flat = again
    return flat


def _visible(character: str) -> str:
    """``character``, but none without a width, and a hyphen for each dash."""
    category = unicodedata.category(character)
    if category == "Cf" or "\ufe00" <= character <= "\ufe0f":
        return ""
    return "-" if category == "Pd" else character


def _in_word(character: str) -> bool:
    """Whether ``character``, which may be empty, is part of a word of a script with spaces."""
    if character.isascii():
        return character.isalnum()
    if _unspaced(character):
        return False
    return character.isalnum() or unicodedata.category(character).startswith("M")


def _unspaced(character: str) -> bool:
    return not character.isascii() and _UNSPACED_CHARACTER.match(character) is not None
