"""What the words of a prompt tell that its direction does not.

**Contrast.** Directions hardly tell "a large latte costs" from "a small latte costs". But who
repeats the words of a fact and adds another word, means another thing, while who asks the same in
other words shares few of them. The contrast of a prompt to a fact is ``rarity * likeness ** 2``.
``likeness``: the share of words that both have in the same order (Ratcliff and Obershelp, 1988).
``rarity``: that of the rarest word that is neither in the fact's prompt nor in other wordings of
its relation, as log inverse document frequency over the relations of the corpus (Spärck Jones,
1972), in [0, 1].

**Topic.** What a fact without a subject is about, its own words tell: the share of them, weighted
by rarity, that a prompt has.

**Statements.** A sentence that is finished asks nothing, unless it begins as requests do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from functools import cached_property

from editors.scope.base import Wording
from editors.scope.corpus import SUBJECT
from editors.text_matching import plain_words

AROUND = frozenset(("q", "a", "question", "answer", "hi", "hello", "hey", "dear", "thanks"))
"""Words that stand around a question and are no part of it."""


class Words:
    """Compares prompts by their words, case and accents aside. Prompts are without the subject."""

    def __init__(self, wordings: Sequence[Sequence[Wording]]) -> None:
        """``wordings``: those of each relation of the corpus."""
        self._wordings = wordings

    def contrast(self, own: str, asked: str, relation: int | None = None) -> float:
        """The contrast of what is ``asked`` to a fact's ``own`` prompt, in [0, 1]. ``relation``:
        the number of the relation that the own prompt asks."""
        own_words, words = plain_words(own), plain_words(asked)
        known = AROUND.union(own_words, () if relation is None else self._vocabularies[relation])
        rarest = max((self._rarity(word) for word in words if word not in known), default=0.0)
        if not rarest:
            return 0.0
        likeness = SequenceMatcher(None, own_words, words, autojunk=False).ratio()
        return rarest * likeness**2

    def topic(self, own: str, prompt: str) -> float:
        """The share of the words of a fact's ``own`` prompt that ``prompt`` has, in [0, 1]."""
        rarities = {word: self._rarity(word) for word in plain_words(own)}
        shared = rarities.keys() & plain_words(prompt)
        whole = sum(rarities.values())
        return sum(rarities[word] for word in shared) / whole if whole else 0.0

    def states(self, asked: str) -> bool:
        """Whether ``asked`` is a finished statement: no question, and no request."""
        text = asked.rstrip()
        if "?" in text or not text.endswith((".", "!")) or text.endswith(".."):
            return False
        words = plain_words(text)
        return bool(words) and words[0] not in self._openers

    @cached_property
    def _openers(self) -> frozenset[str]:
        """The first words of requests."""
        requests = (
            plain_words(text)
            for of_relation in self._wordings
            for form, text in of_relation
            if form == "request" and text.endswith(".")
        )
        return frozenset(words[0] for words in requests if words)

    def _rarity(self, word: str) -> float:
        count = len(self._vocabularies)
        return max(0.0, 1 - math.log(1 + self._relations_with[word]) / math.log(max(2, count)))

    @cached_property
    def _vocabularies(self) -> list[frozenset[str]]:
        """The words of each relation."""
        return [_vocabulary(text for _, text in of_relation) for of_relation in self._wordings]

    @cached_property
    def _relations_with(self) -> Counter[str]:
        """The number of relations that have a word."""
        return Counter(word for words in self._vocabularies for word in words)


def _vocabulary(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(word for text in texts for word in plain_words(text.replace(SUBJECT, " ")))
