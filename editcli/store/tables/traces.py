"""What facts have left in a store, and taking it out of all versions."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from editcli.store.tables import history
from editcli.store.tables.contents import read_blob, read_fact, read_told
from editcli.store.tables.history import Event
from editors.text_matching.names import folded, folded_name, whole_word_spans


@dataclass(frozen=True, slots=True)
class Traces:
    """What facts have left: the records with their texts (``facts``), all ``records`` to empty, the
    ``leaves`` of these, the digests of ``blobs``, and the ``texts`` themselves."""

    facts: tuple[int, ...]
    records: tuple[int, ...]
    leaves: tuple[bytes, ...]
    blobs: frozenset[str]
    texts: frozenset[str]


def traces_of(database: sqlite3.Connection, facts: Collection[str]) -> Traces:
    """All that is stored about ``facts`` (ids), in whatever version."""
    keys: dict[int, bytes] = {}
    texts: set[str] = set()
    for fact in facts:
        rows = database.execute(
            "SELECT key, leaf, name, salt, body FROM record WHERE kind = 'fact' AND name = ?",
            (fact,),
        )
        for key, leaf, name, salt, body in rows:
            keys[key] = leaf
            known = read_fact(name, salt, body, leaf)
            assert known is not None  # one that was purged has no id
            own = (known.id, known.target, known.subject, *known.aliases)
            own += (*known.trained_prompts(), *known.rephrases)
            texts |= {text for text in own if text}
    sought = Sought(texts)
    told = {
        key: row[-1]
        for key, *row in database.execute(
            "SELECT key, kind, salt, body, leaf FROM record WHERE kind IN ('note', 'scores') "
            "AND body IS NOT NULL"
        )
        if sought.are_in(read_told(*row))
    }
    blobs = frozenset(
        blob.digest
        for row in database.execute(
            "SELECT name, digest, body, leaf FROM record WHERE kind = 'blob' "
            "AND body IS NOT NULL AND digest IS NOT NULL"
        )
        if (blob := read_blob(*row))
        and not keys.keys().isdisjoint(chain.from_iterable(blob.made_from))
    )
    emptied = {**keys, **told}
    leaves = tuple(emptied.values())
    return Traces(tuple(keys), tuple(emptied), leaves, blobs, frozenset(texts))


class Sought:
    """Texts that are looked for in many records; they are folded once."""

    def __init__(self, texts: Collection[str]) -> None:
        self._names = frozenset(folded_name(text) for text in texts)

    def are_in(self, value: object) -> bool:
        """Whether a text inside ``value``, plain JSON, holds one of them as whole words."""
        held = [*_texts_in(value)]
        everything = "\n".join(folded(text).text for text in held)
        near = [name for name in self._names if name in everything]
        return any(whole_word_spans(name, text) for name in near for text in held)


def _texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        parts = chain(value, value.values()) if isinstance(value, Mapping) else value
        for part in parts:
            yield from _texts_in(part)


def empty(database: sqlite3.Connection, records: Iterable[int]) -> None:
    """Take the texts out of ``records``; their leaves stay."""
    database.executemany(
        "UPDATE record SET name = NULL, salt = NULL, body = NULL WHERE key = ?",
        ((key,) for key in records),
    )


def purged_blobs(database: sqlite3.Connection) -> set[str]:
    """The digests of blobs that were purged, and not made again by that event or since."""
    return not_made_again(database, history.events(database, "instr(line, '\"purge\"')"))


def not_made_again(database: sqlite3.Connection, events: Iterable[Event]) -> set[str]:
    """The digests of blobs that ``events`` removed, and that were not made again by that event or
    since."""
    found = set()
    for event in events:
        for digest in event.purged:
            again = database.execute(
                "SELECT 1 FROM record WHERE kind = 'blob' AND digest = ? AND event >= ?",
                (digest, event.seq),
            )
            if again.fetchone() is None:
                found.add(digest)
    return found
