"""Finds the subjects of facts in a text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from editors.text_matching import whole_word_pattern, words

_NEXT_WORD = re.compile(r"[ -](\w)(\w)")  # its first two letters


class Subjects:
    """The subjects of facts, found as whole words (in scripts that separate words), in any case.

    A longer name is another name: "Porto Alegre" does not name Porto.
    """

    def __init__(self, subjects: Sequence[str | None]) -> None:
        self._without = [i for i, subject in enumerate(subjects) if subject is None]
        self._by_word: dict[str, dict[str, list[int]]] = {}
        for i, subject in enumerate(subjects):
            if subject is None:
                continue
            folded = subject.casefold()
            # Few names share their longest word, unlike "the".
            word = max(words(folded), key=len, default="")
            self._by_word.setdefault(word, {}).setdefault(folded, []).append(i)

    def named_in(self, text: str) -> list[int]:
        """The numbers, ascending, of the facts whose subject ``text`` names, and of all facts
        without a subject."""
        folded = text.casefold()
        named = [*self._without]
        for word in {*words(folded), ""}:  # "": subjects without letters or digits
            for subject, facts in self._by_word.get(word, {}).items():
                if subject not in folded:  # a pattern takes a hundred times as long
                    continue
                pattern = whole_word_pattern(subject)
                if re.search(pattern, folded) and not _always_goes_on(pattern, text):
                    named.extend(facts)
        return sorted(named)


def _always_goes_on(pattern: str, text: str) -> bool:
    """Whether each match of ``pattern`` in ``text`` is part of a longer name: a capitalised word
    follows.

    Always False for a text without a word in lower case, as its capitals mean nothing.
    """
    mentions = list(re.finditer(pattern, text, re.IGNORECASE))
    longer = bool(mentions) and all(
        mention.group()[:1].isupper()
        and (following := _NEXT_WORD.match(text, mention.end())) is not None
        and following[1].isupper()
        and following[2].islower()
        for mention in mentions
    )
    return longer and any(word[0].islower() for word in words(text))
