"""Facts whose ids name other facts of a store."""

from __future__ import annotations

from editcli.store.records import Version
from editcli.store.store import Store
from editors import Fact
from editors.methods.edit_state import EditState


def id_clash(store: Store, version: Version, edits: EditState, fact: Fact) -> str | None:
    """The objection to a fact whose id names another fact of ``version``, in force or closed.
    ``edits``: those of the version."""
    recorded = edits.facts.get(fact.id, fact)
    if recorded is fact and fact.id != fact.canonical_id():  # an id that somebody has chosen
        past = store.past(version, fact.id)
        recorded = past.fact if past else fact
    if recorded.prompt != fact.prompt:
        return f"id: {fact.id!r} names another fact in the store: {recorded.prompt!r}"
    if recorded.target != fact.target:
        return (
            f"id: {fact.id!r} names a fact in the store with the target {recorded.target!r}; "
            "a fact with another target needs an id of its own"
        )
    return None
