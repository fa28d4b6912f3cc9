"""The edits of a version, to and from its facts and blobs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from hashlib import sha256

from editcli.store.changes import Changes, NewBlob
from editcli.store.records import Version
from editcli.store.store import Store
from editcli.store.tables import contents
from editcli.store.tables.database import DAMAGED
from editors import EditorError, Fact, FactClosure, StateMismatch
from editors.heads.pruning import HeadPruning
from editors.methods.edit_state import EDITS, HEAD_FILL, HEAD_MASK, EditState
from editors.model.saved_payload import Groups, SavedPayload


def edits_of(store: Store, version: Version | str = "HEAD", *, whole: bool = False) -> EditState:
    """The edits of a version; with ``whole``, the blobs of their payload too. The facts are those
    in force, and those that the payload was made from.

    Raises:
        EditorError: a blob is missing or damaged, or was purged, or the blobs are not edits.
    """
    if isinstance(version, str):
        version = store.version(version)
    blobs = store.blobs(version)
    facts, closed, ids = _facts(store, version, blobs)
    names = [name for name in blobs if whole or name in (EDITS, HEAD_MASK)]
    read = {name: store.read(name, blobs[name]) for name in names}
    made_from = {
        name: tuple(tuple(ids[key] for key in group) for group in blob.made_from)
        for name, blob in blobs.items()
        if blob.groups
    }
    return _state(version, read, made_from, facts, closed)


def described(
    store: Store, version: Version, blobs: Mapping[str, contents.Blob] | None = None
) -> EditState:
    """The edits of a version, for what is told of them without a fact: the ids in ``made_from`` are
    those of the records with the texts, and there are no facts, unless heads are pruned, which
    depend on the facts in force. ``blobs``: those of the version, where they are known. Errors as
    :func:`edits_of`."""
    blobs = store.blobs(version) if blobs is None else blobs
    read = {n: store.read(n, blobs[n]) for n in (EDITS, HEAD_MASK) if n in blobs}
    entries = store.in_force(version) if HEAD_MASK in blobs else ()
    facts = {entry.fact.id: entry.fact for entry in entries if entry.fact}
    state = _state(version, read, {}, facts, {})
    return replace(state, payload=replace(state.payload, made_from=_ByRecord(blobs)))


class _ByRecord(Mapping[str, Groups]):
    """What blobs were made from, by their names, with records for facts; read when asked for."""

    def __init__(self, blobs: Mapping[str, contents.Blob]) -> None:
        self._blobs = {name: blob for name, blob in blobs.items() if blob.groups}

    def __getitem__(self, name: str) -> Groups:
        return tuple(tuple(map(str, group)) for group in self._blobs[name].made_from)

    def __iter__(self) -> Iterator[str]:
        return iter(self._blobs)

    def __len__(self) -> int:
        return len(self._blobs)


def _state(
    version: Version,
    read: Mapping[str, bytes],
    made_from: Mapping[str, Groups],
    facts: Mapping[str, Fact],
    closed: Mapping[str, FactClosure],
) -> EditState:
    try:
        return EditState.from_frame(json.loads(read[EDITS]), read, made_from, facts, closed)
    except KeyError:
        raise EditorError(f"{version.id} has no {EDITS}", DAMAGED) from None
    except StateMismatch as error:
        raise EditorError(f"{version.id}: {error.message}", error.hint or DAMAGED) from error
    except (ValueError, RecursionError) as error:
        raise EditorError(f"{EDITS} of {version.id} cannot be read: {error}", DAMAGED) from error


def pruning_of(store: Store, version: Version) -> HeadPruning | None:
    """The pruned heads of a version; None if it has none. Errors as :func:`edits_of`."""
    return described(store, version).pruning if store.has_blob(version, HEAD_MASK) else None


def _facts(
    store: Store, version: Version, blobs: Mapping[str, contents.Blob]
) -> tuple[dict[str, Fact], dict[str, FactClosure], dict[int, str]]:
    """The facts of a version by id, in the order in which they were entered; the closures of those
    that are not in force; and the ids by the record of the text."""
    with store.along(version) as base:
        entries = {entry.text: (entry.key, entry.fact) for entry in contents.in_force(base)}
        used = {key for blob in blobs.values() for group in blob.made_from for key in group}
        others = contents.texts(base, sorted(used - entries.keys()))
        closures = {key: contents.closures(base, fact.id) for key, fact in others.items() if fact}
    entries |= {key: (key, fact) for key, fact in others.items()}
    if purged := [key for key, (_, fact) in entries.items() if fact is None]:
        raise EditorError(
            f"{_purged(len(purged))} purged from {version.id}, so its edits are gone",
            "use a version that was made later",
        )
    ordered = sorted(entries.items(), key=lambda item: item[1][0])
    facts: dict[str, Fact] = {}
    closed: dict[str, FactClosure] = {}
    ids: dict[int, str] = {}
    for key, (_, fact) in ordered:
        assert fact is not None
        ids[key] = fact.id
        # Of several texts of one fact, the newest that is in force counts.
        if key in others and fact.id in facts and fact.id not in closed:
            continue
        if key in others:
            closed[fact.id] = closures[key][-1][1] if closures[key] else FactClosure("undone")
        else:
            closed.pop(fact.id, None)
        facts.pop(fact.id, None)
        facts[fact.id] = fact
    return facts, closed, ids


def changes_between(store: Store, parent: Version, before: EditState, after: EditState) -> Changes:
    """How ``after``, whose payload is saved with all its blobs, differs from ``before``, the edits
    of ``parent``."""
    old = {fact.id: fact for fact in before.in_force()}
    new = {fact.id: fact for fact in after.in_force()}
    entered = [fact for key, fact in new.items() if old.get(key) != fact]
    closed: dict[str, str | None] = {k: k for k in old if k in new and old[k] != new[k]}
    gone = FactClosure("undone")  # of a fact that was taken out altogether
    closed |= {k: after.closed.get(k, gone).replaced_by for k in old if k not in new}
    for key, fact in after.facts.items():  # trained, and superseded at once
        if key not in old | new and after.closed[key] != before.closed.get(key):
            entered.append(fact)
            closed[key] = after.closed[key].replaced_by
    order = {key: place for place, key in enumerate(after.facts)}
    entered.sort(key=lambda fact: order[fact.id])
    blobs = _changed(store.blobs(parent), blobs_of(after))
    return Changes(entered, closed=closed, blobs=blobs)


def without_heads(store: Store, parent: Version) -> dict[str, NewBlob | contents.Blob | None]:
    """The blobs that change when the pruned heads of ``parent`` are put back."""
    return {name: None for name in (HEAD_MASK, HEAD_FILL) if name in store.blobs(parent)}


def blobs_of(state: EditState) -> dict[str, NewBlob]:
    """All blobs of ``state``, whose payload is saved."""
    payload: SavedPayload = state.payload
    own = {EDITS: f"{json.dumps(state.frame(), indent=1)}\n".encode(), **state.pruning_blobs()}
    return {
        name: NewBlob(data, payload.made_from.get(name, ()))
        for name, data in {**own, **payload.blobs}.items()
    }


def _changed(
    known: Mapping[str, contents.Blob], wanted: Mapping[str, NewBlob]
) -> dict[str, NewBlob | contents.Blob | None]:
    """Those of the ``wanted`` blobs that are not ``known``, and None for those not wanted."""
    changed: dict[str, NewBlob | contents.Blob | None] = {}
    changed |= {name: None for name in known if name not in wanted}
    for name, blob in wanted.items():
        if name not in known or known[name].digest != sha256(blob.data).hexdigest():
            changed[name] = blob
    return changed


def _purged(facts: int) -> str:
    return "a fact was" if facts == 1 else f"{facts} facts were"
