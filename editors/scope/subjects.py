"""Which facts' subjects a text names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from editors.text_matching import whole_word_pattern, words

_NEXT_WORD = re.compile(r"[ -](\w)(\w)")  # its first two letters


class Subjects:
    """Subjects of facts, found in text as whole words where they can be seen, whatever the case.

    A name that goes on is another name: "Porto Alegre" does not name Porto.
    """

    def __init__(self, subjects: Sequence[str | None]) -> None:
        self._without = [i for i, subject in enumerate(subjects) if subject is None]
        self._by_word: dict[str, dict[str, list[int]]] = {}
        for i, subject in enumerate(subjects):
            if subject is not None:
                folded = subject.casefold()
                word = max(words(folded), key=len, default="")  # few names share it, unlike "the"
                self._by_word.setdefault(word, {}).setdefault(folded, []).append(i)

    def named_in(self, text: str) -> list[int]:
        """The numbers of the facts whose subject ``text`` names, and of those without a subject."""
        folded = text.casefold()
        found = list(self._without)
        for word in {*words(folded), ""}:  # "": subjects made of signs alone
            for subject, facts in self._by_word.get(word, {}).items():
                if subject not in folded:  # patterns take a hundred times as long
                    continue
                pattern = whole_word_pattern(subject)
                if re.search(pattern, folded) and not _always_goes_on(pattern, text):
                    found.extend(facts)
        return sorted(found)


def _always_goes_on(pattern: str, text: str) -> bool:
    """Wherever ``text`` has the name, a capitalised word follows that makes it a longer name.

    Only where capitals tell something: not in a text that has them everywhere or on every word.
    """
    places = list(re.finditer(pattern, text, re.IGNORECASE))
    longer = bool(places) and all(
        place.group()[:1].isupper()
        and (following := _NEXT_WORD.match(text, place.end())) is not None
        and following[1].isupper()
        and following[2].islower()
        for place in places
    )
    return longer and any(word[0].islower() for word in words(text))
