"""The edits of a version, to and from its blobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from editcli.store.history import DAMAGED
from editcli.store.records import Digest, Version
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
    state = _read(version, {name: store.read(version, name) for name in names})
    stray = sorted({*_named_facts(version, state)} - set(state.facts))
    if stray:
        raise EditorError(
            f"{EDITS} of {version.id} names fact {stray[0]}, which {FACTS} lacks", DAMAGED
        )
    return state


def _read(version: Version, blobs: Mapping[str, bytes]) -> EditState:
    try:
        return EditState.from_blobs(blobs)
    except StateMismatch as error:
        raise EditorError(f"{version.id}: {error.message}", error.hint or DAMAGED) from error


def _named_facts(version: Version, state: EditState) -> list[str]:
    """The ids of the facts that the payload names."""
    spec = METHODS.load(state.method)
    try:
        return [str(fact) for fact in spec.named_facts(state)]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise EditorError(
            f"{EDITS} of {version.id} is no payload of {state.method}: {error!r}", DAMAGED
        ) from error


def publish_closing(
    transaction: Transaction,
    operation: str,
    parent: Version,
    state: EditState,
    *,
    removed: Sequence[str],
    author: str,
    message: str,
    tools: Mapping[str, str],
    extra: Mapping[str, object],
) -> Version:
    """Publish ``state``, which differs from ``parent`` only in closed facts and pruned heads.

    The payload is not read: the new version has the payload blobs of ``parent``.
    """
    payload_blobs: dict[str, bytes | Digest] = {
        name: digest for name, digest in parent.blobs.items() if name not in COMMON
    }
    if state.pruning is None:
        payload_blobs.pop(HEAD_FILL, None)
    return transaction.publish(
        operation,
        {**payload_blobs, **state.to_blobs(state.payload)},
        [fact.id for fact in state.in_force()],
        removed=removed,
        author=author,
        message=message,
        tools=tools,
        extra=extra,
    )
