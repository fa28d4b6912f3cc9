"""Finds aliases that would make two subjects one: an alias of one subject that is another subject,
or an alias of another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from editors.facts import Fact
from editors.text_matching.names import folded_name

ONE_SUBJECT = "facts about one thing need the same subject"


class _Named(NamedTuple):
    """A fact that has a name, and what its subject is, folded and as it stands."""

    fact: str
    prompt: str
    folded: str
    subject: str


class KnownNames:
    """The subjects and aliases of facts, to be asked whether another fact clashes with one.

    Facts whose subjects are the same name are about one thing, and may share aliases.
    """

    def __init__(self, facts: Iterable[Fact] = ()) -> None:
        self._subjects: dict[str, list[_Named]] = defaultdict(list)
        self._aliases: dict[str, list[_Named]] = defaultdict(list)
        for fact in facts:
            self.add(fact)

    def add(self, fact: Fact) -> None:
        """Know ``fact``, too."""
        if fact.subject is None:
            return
        named = _Named(fact.id, fact.prompt, folded_name(fact.subject), fact.subject)
        self._subjects[named.folded].append(named)
        for alias in fact.aliases:
            self._aliases[folded_name(alias)].append(named)

    def clash(self, fact: Fact) -> str | None:
        """What is wrong with the names of ``fact``, as "key: what"; None if nothing is.

        A known fact with the same prompt does not count, as ``fact`` replaces it.
        """
        if fact.subject is None:
            return None
        subject = folded_name(fact.subject)

        def other(named: Iterable[_Named]) -> _Named | None:
            about_else = (n for n in named if n.folded != subject and n.prompt != fact.prompt)
            return next(about_else, None)

        for alias in fact.aliases:
            if found := other(self._subjects.get(folded_name(alias), ())):
                return f"aliases: {alias!r} is the subject of fact {found.fact}; {ONE_SUBJECT}"
            if found := other(self._aliases.get(folded_name(alias), ())):
                return _is_alias("aliases", alias, found)
        found = other(self._aliases.get(subject, ()))
        return _is_alias("subject", fact.subject, found) if found else None


def _is_alias(key: str, name: str, found: _Named) -> str:
    return f"{key}: {name!r} is an alias of {found.subject!r} in fact {found.fact}; {ONE_SUBJECT}"
