"""Words and names in text of any script.

A word in a script with spaces is a run of its characters; in a script without spaces each character
is a word. Names in Chinese, Japanese and the scripts of South-East Asia are written without a gap
to the next word, and Korean names take a particle, so the edge of a name cannot be seen there.
"""

from __future__ import annotations

import re
import unicodedata

UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"  # kana, Han, Hangul
)
_SPACED = rf"[^\W{UNSPACED}]"
_WORD = re.compile(rf"[{UNSPACED}]|{_SPACED}+")


def words(text: str) -> list[str]:
    """The words of ``text`` in order."""
    return _WORD.findall(text)


def word_edges(name: str) -> tuple[str, str]:
    """Regular expressions for the place before and behind ``name`` where it is not a part of a
    longer word. Each is empty if the script of ``name`` does not separate words there."""
    before = rf"(?<!{_SPACED})" if re.match(_SPACED, name) else ""
    after = rf"(?!{_SPACED})" if re.search(rf"{_SPACED}\Z", name) else ""
    return before, after


def whole_word_pattern(name: str) -> str:
    """A regular expression that matches ``name`` as whole words, if its script separates words."""
    before, after = word_edges(name)
    return f"{before}{re.escape(name)}{after}"


def replace_words(text: str, name: str, replacement: str) -> str:
    """``text`` with each whole-word ``name`` replaced by ``replacement``."""
    return re.sub(whole_word_pattern(name), lambda _: replacement, text)


def normalised(text: str) -> str:
    """``text`` for exact-match comparison: NFKC form, without case, extra white space and
    punctuation at the end."""
    flat = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return flat.rstrip(" .,;:!?")


def plain_words(text: str) -> list[str]:
    """The words of ``text`` without case, accents and punctuation."""
    plain = unicodedata.normalize("NFD", text.casefold())
    return words("".join(char for char in plain if not unicodedata.combining(char)))
