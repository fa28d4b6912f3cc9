"""Which facts a text mentions, and where: the facts whose subject or alias it names."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from editors.text_matching.longer_names import longer_name
from editors.text_matching.name_words import COMMON
from editors.text_matching.names import WORD, Folded, folded, folded_name, without_article
from editors.text_matching.surroundings import Surroundings


class Mention(NamedTuple):
    """``text[start:end]`` names the subject of the fact with the number ``fact``."""

    fact: int
    start: int
    end: int


class _Name(NamedTuple):
    """A name, ``folded``, as it is ``spelt``, and where the word that it is found by is in it."""

    folded: str
    spelt: str
    word_at: int


class Mentions:
    """The names of facts, found in texts as whole words, whatever their case and spelling.

    The longest name wins: "South Sudan" does not mention Sudan, whether or not a fact is about
    South Sudan.
    """

    def __init__(self, names: Sequence[Sequence[str]]) -> None:
        """``names[i]``: the subject and the aliases of fact ``i``; empty without a subject."""
        self.without_subject = [fact for fact, of_fact in enumerate(names) if not of_fact]
        self._facts: dict[str, list[int]] = defaultdict(list)
        spellings: dict[str, set[str]] = defaultdict(set)
        for fact, of_fact in enumerate(names):
            for name in of_fact:
                spellings[folded_name(name)].add(without_article(name))
            for folded_once in {folded_name(name) for name in of_fact} - {""}:
                self._facts[folded_once].append(fact)
        uses = Counter(word for name in self._facts for word in {*WORD.findall(name)})
        self._by_word: dict[str, list[_Name]] = defaultdict(list)
        for name in self._facts:
            # Few names share their rarest word, unlike "the".
            word = min(WORD.finditer(name), key=lambda match: uses[match.group()], default=None)
            at, key = (word.start(), word.group()) if word else (0, "")
            self._by_word[key].append(_Name(name, min(spellings[name]), at))

    def find(self, text: str) -> list[Mention]:
        """The mentions in ``text``, ascending by place; facts that share a name share its mentions.

        Mentions do not overlap. Facts without a subject are not found.
        """
        within, surroundings = folded(text), Surroundings(text)
        mentions: list[Mention] = []
        taken = bytearray(len(within.text))
        found = sorted(self._occurrences(within), key=_longest_first)
        for start, name in found:
            end = start + len(name.folded)
            if any(taken[start:end]):
                continue
            taken[start:end] = b"\1" * (end - start)
            span = within.span(start, end)
            if longer_name(surroundings, *span, name.spelt) is None:
                mentions += [Mention(fact, *span) for fact in self._facts[name.folded]]
        return sorted(mentions, key=lambda mention: (mention.start, mention.fact))

    def named_in(self, text: str) -> list[int]:
        """The numbers, ascending, of the facts that ``text`` mentions, and of all facts without a
        subject."""
        return sorted({*self.without_subject, *(mention.fact for mention in self.find(text))})

    def _occurrences(self, within: Folded) -> Iterator[tuple[int, _Name]]:
        """Where each name begins in the folded text, as whole words."""
        text = within.text
        places = [(match.start(), match.group()) for match in WORD.finditer(text)]
        if "" in self._by_word:  # names without letters or digits
            places += [(place, "") for place in range(len(text))]
        for place, word in places:
            for name in self._by_word.get(word, ()):
                start = place - name.word_at
                if start < 0 or not text.startswith(name.folded, start):
                    continue
                end = start + len(name.folded)
                if within.is_whole(start, end) and _is_meant(within, start, end, name):
                    yield start, name


def _longest_first(found: tuple[int, _Name]) -> tuple[int, int]:
    start, name = found
    return -len(name.folded), start


def _is_meant(within: Folded, start: int, end: int, name: _Name) -> bool:
    """Whether a name that is a common word, too, is spelt as the name is: "us" is not the US."""
    if name.folded not in COMMON:
        return True
    first, last = within.span(start, end)
    return within.original[first:last] == name.spelt
