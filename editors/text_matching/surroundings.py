"""A text as words, to be asked what stands beside a place in it and what its capitals say."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple
from unicodedata import normalize

from editors.text_matching import name_words as known

_WORD = re.compile(r"\d+(?:[.,]\d+)+|[^\W_](?:[^\W_]|[\u0300-\u036f]|['\u2019\u00ad](?=[^\W\d_]))*")
_SENTENCE_END = re.compile(r"[.!?\u2026](?=\s)|[\r\n]")
_ABBREVIATION = re.compile(r"\b(?:[^\W\d_]|St|Mt|Mr|Dr|Mrs)\.\Z")
_OPENING = " \t\xa0\"'([{*_#>\u2018\u2019\u201c\u201e\u00ab\u2022\u2013\u2014-"
BACK, AHEAD = 4, 3  # the words beside a place that are looked at


class Word(NamedTuple):
    """A word, with its apostrophes ("d'Or", "Germany's"), or a number; where it is in its text."""

    start: int
    end: int
    text: str

    @property
    def folded(self) -> str:
        """In lower case, without "'s"."""
        return self.bare.lower()

    @property
    def bare(self) -> str:
        """Without "'s"."""
        return self.text.removesuffix("'s").removesuffix("\u2019s")

    @property
    def has_capital(self) -> bool:
        return has_capital(self.text)

    @property
    def is_like_a_name(self) -> bool:
        """Whether the word has the capital of a name, and is no abbreviation."""
        text = self.text
        if not text[0].isupper() or len(text) == 1:
            return False
        return text[1].islower() and (len(text) > 4 or text[1:].islower())


@dataclass(frozen=True, slots=True)
class _Sentence:
    """The first characters of the words of a sentence, by what their capitals say."""

    small: list[int] = field(default_factory=list)
    content: list[int] = field(default_factory=list)  # small, and no function words
    titled: list[int] = field(default_factory=list)  # with a capital, but not the first word
    titled_function: list[int] = field(default_factory=list)  # of those, function words


class Surroundings:
    """A text, to be asked what stands beside a place in it. Places are numbers of characters."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._sentences: dict[int, _Sentence] = {}  # by number, those that were asked about

    def before(self, start: int) -> list[Word]:
        """The last ``BACK`` words that end before ``start`` or there, in order."""
        number = bisect_right(self._word_ends, start)
        return self._words[max(number - BACK, 0) : number]

    def after(self, end: int) -> list[Word]:
        """The next ``AHEAD`` words that begin at ``end`` or after it."""
        number = bisect_left(self._word_starts, end)
        return self._words[number : number + AHEAD]

    def between(self, start: int, end: int) -> str:
        return self._text[start:end]

    def starts_sentence(self, word: Word) -> bool:
        """Whether ``word`` begins a sentence, a line, or what a colon announces."""
        place = word.start
        while place and self._text[place - 1] in _OPENING:
            place -= 1
        return not place or self._text[place - 1] in ".!?:;\u2026\r\n"

    def capitals_show(self, start: int, end: int) -> bool:
        """Whether a capital beside ``text[start:end]`` makes a name: in its sentence, names have
        one and other words have none."""
        if self._language == "German":
            return False
        sentence = self._sentence_at(start)
        if len(sentence.titled_function) > _count(sentence.titled_function, start, end):
            return False
        if len(sentence.small) == _count(sentence.small, start, end):
            return False
        if len(sentence.content) > _count(sentence.content, start, end):
            return True
        beside = [*self.before(start)[-1:], *self.after(end)[:2]]
        zone = [start, end, *(word.start for word in beside)]
        return len(sentence.titled) - _count(sentence.titled, min(zone), max(zone) + 1) < 2

    @property
    def is_english(self) -> bool:
        """Whether more of its words are function words of English than of German."""
        return self._language == "English"

    # --- about the text -------------------------------------------------------------------------

    @cached_property
    def _words(self) -> list[Word]:
        # Composed, so that a letter with its accent is one character in every spelling.
        return [
            Word(*match.span(), normalize("NFC", match.group()))
            for match in _WORD.finditer(self._text)
        ]

    @cached_property
    def _word_starts(self) -> list[int]:
        return [word.start for word in self._words]

    @cached_property
    def _word_ends(self) -> list[int]:
        return [word.end for word in self._words]

    @cached_property
    def _sentence_ends(self) -> list[int]:
        ends = [match.end() for match in _SENTENCE_END.finditer(self._text)]
        return [end for end in ends if not _ABBREVIATION.search(self._text, max(end - 5, 0), end)]

    def _sentence_at(self, place: int) -> _Sentence:
        number = bisect_right(self._sentence_ends, place)
        if number not in self._sentences:
            ends = [0, *self._sentence_ends, len(self._text)]
            first = bisect_left(self._word_starts, ends[number])
            last = bisect_left(self._word_starts, ends[number + 1])
            self._sentences[number] = self._sentence(self._words[first:last])
        return self._sentences[number]

    def _sentence(self, words: Sequence[Word]) -> _Sentence:
        sentence = _Sentence()
        for number, word in enumerate(words):
            if word.text[0].islower():
                sentence.small.append(word.start)
                if word.text not in known.FUNCTION:
                    sentence.content.append(word.start)
            elif number > 0 and word.is_like_a_name:
                sentence.titled.append(word.start)
                if word.folded in known.LOWER_IN_NAMES and not self.starts_sentence(word):
                    sentence.titled_function.append(word.start)
        return sentence

    @cached_property
    def _language(self) -> str:
        words = [word.text.lower() for word in self._words]
        german = sum(word in known.GERMAN for word in words)
        english = sum(word in known.ENGLISH for word in words)
        if german and german >= english:
            return "German"
        return "English" if english else ""


def has_capital(text: str) -> bool:
    """Whether the first letter is a capital, or has no case; so is a text without letters."""
    first = next((character for character in text if character.isalpha()), "")
    return first.isupper() or first.lower() == first.upper()


def _count(places: Sequence[int], start: int, end: int) -> int:
    """How many of the sorted ``places`` are from ``start`` to before ``end``."""
    return bisect_left(places, end) - bisect_left(places, start)
