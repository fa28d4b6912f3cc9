"""The edits of a version, to and from its blobs."""

from __future__ import annotations

from typing import Unpack

from editcli.store.history import DAMAGED
from editcli.store.records import About, Version
from editcli.store.store import Store
from editcli.store.transaction import Transaction
from editors import METHODS, EditorError, StateMismatch
from editors.methods.edit_state import COMMON, EDITS, FACTS, HEAD_FILL, EditState


def edits_of(store: Store, version: Version | str = "HEAD", *, whole: bool = False) -> EditState:
    """The edits of a version; with ``whole``, the blobs of their payload too.

    Raises:
        EditorError: a blob is missing or damaged, or the blobs are not edits.
    """
    if isinstance(version, str):
        version = store.version(version)
    names = [name for name in version.blobs if whole or name in COMMON]
    if EDITS not in names:
        raise EditorError(f"{version.id} has no {EDITS}", DAMAGED)
    blobs = {name: store.read(version, name) for name in names}
    try:
        state = EditState.from_blobs(blobs)
    except StateMismatch as error:
        raise EditorError(f"{version.id}: {error.message}", error.hint or DAMAGED) from error
    try:
        named = {str(fact) for fact in METHODS.load(state.method).named_facts(state)}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise EditorError(
            f"{EDITS} of {version.id} is not a payload of {state.method}: {error!r}", DAMAGED
        ) from error
    if stray := sorted(named - set(state.facts)):
        raise EditorError(
            f"{EDITS} of {version.id} names fact {stray[0]}, which {FACTS} lacks", DAMAGED
        )
    return state


def publish_closing(
    transaction: Transaction,
    operation: str,
    parent: Version,
    state: EditState,
    **about: Unpack[About],
) -> Version:
    """Publish ``state``, which differs from ``parent`` only in closed facts and pruned heads.

    The payload is not read: the new version has the payload blobs of ``parent``.
    """
    left_out = COMMON if state.pruning else (*COMMON, HEAD_FILL)
    blobs: dict[str, bytes | str] = {
        name: digest for name, digest in parent.blobs.items() if name not in left_out
    }
    facts = [fact.id for fact in state.in_force()]
    return transaction.publish(
        operation, {**blobs, **state.to_blobs(state.payload)}, facts, **about
    )
