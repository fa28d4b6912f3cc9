"""Words and names in text of any script.

Spaced words are taken as they stand, characters of unspaced scripts one by one. Names in Chinese,
Japanese and the scripts of South-East Asia run into what follows them, and Korean ones take a
particle: there no edge of a word can be seen.
"""

from __future__ import annotations

import re
import unicodedata

_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"  # kana, Han, Hangul
)
_SPACED = rf"[^\W{_UNSPACED}]"
_WORD = re.compile(rf"[{_UNSPACED}]|{_SPACED}+")


def words(text: str) -> list[str]:
    """The words of ``text`` in order."""
    return _WORD.findall(text)


def whole_word_pattern(name: str) -> str:
    """A pattern for ``name`` as whole words, where its script shows where words begin and end."""
    before = rf"(?<!{_SPACED})" if re.match(_SPACED, name) else ""
    after = rf"(?!{_SPACED})" if re.search(rf"{_SPACED}\Z", name) else ""
    return f"{before}{re.escape(name)}{after}"


def replace_words(text: str, name: str, other: str) -> str:
    """``text`` with ``other`` in the place of each whole-word ``name``."""
    return re.sub(whole_word_pattern(name), lambda _: other, text)


def normalised(text: str) -> str:
    """Text as an exact match compares it: without case, extra space and closing punctuation."""
    flat = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return flat.rstrip(" .,;:!?")


def plain_words(text: str) -> list[str]:
    """The words of ``text`` without case, accents and punctuation."""
    plain = unicodedata.normalize("NFD", text.casefold())
    return words("".join(char for char in plain if not unicodedata.combining(char)))
