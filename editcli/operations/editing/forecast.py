"""What editing and purging would do, as far as that is known without the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from editcli.operations.editing.id_clash import id_clash
from editcli.operations.editing.taking_back import TakenBack
from editcli.store.records import Version
from editcli.store.store import Store
from editcli.store.tables.traces import traces_of
from editcli.wording import counted
from editors.methods.aliases import KnownNames

if TYPE_CHECKING:
    from editors import Fact
    from editors.methods.edit_state import EditState


class Objections:
    """Why facts cannot join those in force, by what the store knows."""

    def __init__(self, store: Store, version: Version, edits: EditState) -> None:
        """``edits``: those of ``version``."""
        self._store, self._version, self._edits = store, version, edits
        self._names = KnownNames(edits.in_force())

    def to(self, fact: Fact) -> str | None:
        """The objection to ``fact``, as "key: what"; None if there is none."""
        clash = id_clash(self._store, self._version, self._edits, fact)
        return clash or self._names.clash(fact)


def forecast(edits: EditState, facts: Iterable[Fact]) -> dict[str, int]:
    """How many of the facts would be applied, how many would supersede another answer, and how
    many are in force already. The keys are those of the record of `apply`. Other wordings of a
    question, which may be superseded as well, are found by the model alone."""
    current = {fact.prompt: fact.target for fact in edits.in_force()}
    known = [(current.get(fact.prompt), fact.target) for fact in facts]
    unchanged = sum(old == new for old, new in known)
    edited = sum(old is not None for old, _ in known)
    return {
        "applied": len(known) - unchanged,
        "superseded": edited - unchanged,
        "unchanged": unchanged,
    }


def told_forecast(counts: dict[str, int]) -> str:
    """The same in words."""
    parts = [f"would apply {counted(counts['applied'], 'fact')}"]
    others = {"superseded": "supersede", "unchanged": "leave alone what is in force already:"}
    parts += [f"{verb} {counts[key]}" for key, verb in others.items() if counts[key]]
    return ", ".join(parts)


def purge_forecast(store: Store, facts: Sequence[str]) -> tuple[TakenBack, dict[str, int]]:
    """What a purge of the facts with these ids (or starts of ids) would take out.

    Raises EditorError: there is no such fact.
    """
    ids = [store.full_id(fact) for fact in facts]
    head = store.head()
    with store.along(head) as base:
        gone = traces_of(base, ids)
    entries = [store.entry(head, fact) for fact in ids]
    undone = tuple(entry.fact for entry in entries if entry and entry.fact)
    notes = len(gone.records) - len(gone.facts)
    counts = {"texts": len(gone.facts), "notes": notes, "blobs": len(gone.blobs)}
    return TakenBack(None, undone), counts
