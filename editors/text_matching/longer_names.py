"""Whether a name in a text is part of a longer name: South Sudan is not Sudan.

No list of names is asked. The words beside the name decide: their capitals, where capitals mean
something in the text, numbers, and some words that make names
(:mod:`editors.text_matching.name_words`).
"""

from __future__ import annotations

import re
from functools import cached_property

from editors.text_matching import name_words as known
from editors.text_matching.surroundings import Surroundings, Word, has_capital

_GAP = re.compile(r"[^\S\r\n]+")
_LINE_BREAK = re.compile(r"[^\S\r\n]*\r?\n[^\S\r\n]*")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_YEAR = re.compile(r"1\d{3}|20\d\d|21\d\d")
_ROMAN = re.compile(r"(?=[IVX])X{0,3}(?:IX|IV|V?I{0,3})")
_SMALL_ROMAN = re.compile(r"x{0,2}(?:ix|iv|vi{1,3})|x?i{2,3}|x[iv]|xx")
_HYPHENS = ("-", "\u2010", "\u2011")


def longer_name(
    surroundings: Surroundings, start: int, end: int, name: str
) -> tuple[int, int] | None:
    """The span of a longer name around the characters ``start`` to ``end`` of a text, where
    ``name`` stands; None if the words beside it show none.

    ``name`` is spelt as it is known, in its own case.
    """
    place = _Place(surroundings, start, end, name)
    before, after = place.longer_before(), place.longer_after()
    if before is None and after is None:
        return None
    return start if before is None else before, end if after is None else after


class _Place:
    """One occurrence of a name, and what its surroundings say."""

    def __init__(self, text: Surroundings, start: int, end: int, name: str) -> None:
        self._text, self._start, self._end, self._name = text, start, end, name
        self._mention = text.between(start, end)
        self._before, self._after = text.before(start), text.after(end)

    # --- before ---------------------------------------------------------------------------------

    def longer_before(self) -> int | None:
        """Where a longer name begins; None if the name begins it."""
        if not self._before:
            return None
        word = self._before[-1]
        gap = self._text.between(word.end, self._start)
        if gap in _HYPHENS:
            return word.start if self._joined_by_hyphen(word) else None
        if gap[:1] == "." and f"{word.folded}." in known.BEFORE:
            return word.start if _GAP.fullmatch(gap[1:]) else None
        if _LINE_BREAK.fullmatch(gap):
            return word.start if word.folded in known.BEFORE and word.has_capital else None
        if not _GAP.fullmatch(gap):
            return None
        if (head := self._head()) is not None:
            return head.start if self._is_of(head) else None
        return word.start if self._is_first_of_name(word) else None

    def _joined_by_hyphen(self, word: Word) -> bool:
        if word.folded in known.PREFIXES:
            return False
        return word.has_capital or word.folded in known.BEFORE or self._lacks_capital

    def _head(self) -> Word | None:
        """The word before "of" before the name: Bank of America, University of the Arctic."""
        words = list(self._before)
        if len(words) > 2 and words[-1].text in known.ARTICLES_AFTER_OF:
            words.pop()
        if len(words) < 2 or words[-1].text not in known.OF | known.TO:
            return None
        spaced = _GAP.fullmatch(self._text.between(words[-2].end, words[-1].start))
        return words[-2] if spaced else None

    def _is_of(self, head: Word) -> bool:
        if head.folded in known.INSTITUTIONS and self._link.text in known.OF:
            number = self._before.index(head)
            described = number > 0 and self._before[number - 1].folded not in known.FUNCTION
            return head.has_capital or (self._lacks_capital and not described)
        if self._link.text in known.TO:
            return self._capitals_show and head.has_capital and head.folded in known.TITLE_HEADS
        return (
            self._is_capitalised
            and self._capitals_show
            and head.is_like_a_name
            and head.folded not in known.ABOUT
            and head.folded not in known.FUNCTION
            and (not self._text.starts_sentence(head) or self._is_foreign_link)
        )

    @property
    def _link(self) -> Word:
        """The "of" before the name."""
        articles = known.ARTICLES_AFTER_OF
        return next(word for word in reversed(self._before) if word.text not in articles)

    @property
    def _is_foreign_link(self) -> bool:
        """Whether the text is English and the "of" is not: Valle de Santiago."""
        return self._link.text != "of" and self._text.is_english

    def _is_first_of_name(self, word: Word) -> bool:
        folded = word.folded
        if word.bare != word.text:  # women's football, but not Germany's Angela Merkel
            return folded in known.GROUPS
        if folded in known.BEFORE or (folded in known.BEFORE_NOUN and self._name.islower()):
            return True
        if folded in known.DESCRIBES and not self._capitals_show:
            return has_capital(self._name) and not self._is_determined
        if not self._capitals_show:
            return False
        starts_sentence = self._text.starts_sentence(word)
        if folded in known.DESCRIBES or folded in known.OPENS:
            return word.has_capital and (self._is_capitalised or not starts_sentence)
        if not self._is_capitalised:
            return False
        if _YEAR.fullmatch(folded):  # the 2018 World Cup
            return self._is_determined
        # Before a name of several words, a word with a capital says more often who that is.
        if " " in self._mention or folded in known.TITLES or folded in known.FUNCTION:
            return False
        if starts_sentence:
            common = folded in known.ABOUT or folded in known.COMMON_FIRST
            common = common or folded.endswith(known.COMMON_ENDINGS)
            return self._text.is_english and not common and self._looks_like_name(word)
        return self._looks_like_name(word) or (len(word.text) == 1 and word.text.isupper())

    @property
    def _is_determined(self) -> bool:
        """Whether the word before the last one is an article, "my", "how" and so on."""
        return len(self._before) > 1 and self._before[-2].folded in known.DETERMINERS

    # --- after ----------------------------------------------------------------------------------

    def longer_after(self) -> int | None:
        """Where a longer name ends; None if the name ends it."""
        if not self._after:
            return None
        word = self._after[0]
        gap = self._text.between(self._end, word.start)
        if gap in _HYPHENS:
            return word.end if self._goes_on_after_hyphen(word) else None
        if gap.startswith(":"):
            return self._end_of_subtitle(gap)
        if gap.strip() == "(":
            return self._end_of_brackets()
        if not _GAP.fullmatch(gap):
            return None
        if _NUMBER.fullmatch(word.bare):
            return word.end if self._is_number_of_name(word) else None
        if len(self._after) > 1 and self._goes_on_with_two(word, self._after[1]):
            return self._after[1].end
        return word.end if self._goes_on(word) else None

    def _goes_on_after_hyphen(self, word: Word) -> bool:
        if word.text[0].isupper() or word.text[0].isdigit():
            return True
        participle = word.folded in known.PARTICIPLES or word.folded.endswith("ed")
        return self._lacks_capital and not participle

    def _end_of_subtitle(self, gap: str) -> int | None:
        """The end of a name with a subtitle: Titanic: The Musical, Batman: Year One."""
        words = self._after[:2]
        if len(words) < 2 or not _GAP.fullmatch(gap[1:]) or not self._is_capitalised:
            return None
        first, second = words
        starts = first.text in ("The", "A", "An") or self._shows_name(first)
        return second.end if starts and self._shows_name(second) else None

    def _end_of_brackets(self) -> int | None:
        """The end of a name with a word in brackets: Licensing Act (Scotland)."""
        for word in self._after:
            if not self._shows_name(word):
                return None
            if self._text.between(word.end, word.end + 1) == ")":
                return word.end + 1
        return None

    def _is_number_of_name(self, word: Word) -> bool:
        """Whether a number is a part of the name: Windows 11, but not France 2010."""
        following = self._text.between(word.end, word.end + 2)
        if _YEAR.fullmatch(word.bare) or following[:1] in ("-", "%", "\u00b0"):
            return False
        if len(self._after) == 1 or not _GAP.fullmatch(self._gap_after(word)):
            return True
        counted = self._after[1].folded
        return counted not in known.UNITS and not counted.endswith("est")

    def _goes_on_with_two(self, word: Word, second: Word) -> bool:
        """Whether two words go on with the name: Ivan the Terrible, Rio de Janeiro."""
        gap = self._text.between(word.end, second.start)
        if gap not in _HYPHENS and not _GAP.fullmatch(gap):
            return False
        if word.folded == "the":
            return second.folded in known.EPITHETS
        if word.text in known.OF or word.text == "upon":
            if second.text in known.ARTICLES_AFTER_OF and len(self._after) > 2:
                second = self._after[2]
            return self._is_capitalised and self._shows_name(second)
        return f"{word.folded} {second.folded}" in known.AFTER_TWO

    def _goes_on(self, word: Word) -> bool:
        following = self._text.between(word.end, word.end + 1)
        if word.folded in known.LABELS and following == ":":
            return False
        if word.folded in known.AFTER or _SMALL_ROMAN.fullmatch(word.bare):
            return True
        if _ROMAN.fullmatch(word.bare):
            return word.text != "I" or self._is_numeral()
        if len(word.bare) == 1:
            return self._is_letter_of_name(word, following)
        return self._shows_name(word) and not self._is_predicate(word)

    def _is_numeral(self) -> bool:
        """Whether "I" after the name is a numeral: Charles I."""
        if len(self._after) == 1 or not _GAP.fullmatch(self._gap_after(self._after[0])):
            return True
        spoken = self._before and self._before[-1].folded in known.BEFORE_I
        return not spoken and self._after[1].folded in known.AFTER_FIRST

    def _is_letter_of_name(self, word: Word, following: str) -> bool:
        """Whether a single capital is part of the name: Plan B, Hepatitis A?"""
        letter = word.bare
        if not letter.isupper() or not self._capitals_show or following == ":":
            return False
        if following == ".":  # Samuel L. Jackson
            return len(self._after) > 1 and self._shows_name(self._after[1])
        return letter != "A" or letter != word.text or following in ("?", ",", ";", "!")

    def _is_predicate(self, word: Word) -> bool:
        """Whether a yes-or-no question ends with the word: Was Chopin Polish or French?"""
        words = [word for word in self._before if word.folded != "the"]
        asks = words and words[-1].folded in ("is", "was", "are", "were")
        if not asks or not self._text.starts_sentence(words[-1]):
            return False
        following = self._text.between(word.end, word.end + 1)
        alternative = len(self._after) > 1 and self._after[1].folded in ("or", "and")
        return following in ("", "?", ",") or alternative

    def _shows_name(self, word: Word) -> bool:
        """Whether the capital of ``word``, after the name, shows that the name goes on."""
        if not self._capitals_show or word.folded in known.FUNCTION:
            return False
        model = word.text[0].isupper() and any(map(str.isdigit, word.text))  # Galaxy S24
        return model or self._looks_like_name(word)

    def _gap_after(self, word: Word) -> str:
        """What stands between ``word`` and the one after it."""
        number = self._after.index(word)
        return self._text.between(word.end, self._after[number + 1].start)

    # --- capitals -------------------------------------------------------------------------------

    def _looks_like_name(self, word: Word) -> bool:
        if word.is_like_a_name:
            return True
        capitals = self._mention.isupper() and not self._name.isupper() and len(self._mention) > 1
        return capitals and word.text.isupper() and len(word.text) > 1

    @property
    def _is_capitalised(self) -> bool:
        return has_capital(self._mention)

    @property
    def _lacks_capital(self) -> bool:
        """Whether the name is known with a capital and written without, as in a text that has no
        capitals to go by."""
        return has_capital(self._name) and not self._is_capitalised

    @cached_property
    def _capitals_show(self) -> bool:
        return not self._lacks_capital and self._text.capitals_show(self._start, self._end)
