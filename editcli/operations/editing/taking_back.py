"""Taking back what was done: facts, all that a version did, or all traces of facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from editcli.cli.options import Invocation
from editcli.models.libraries import tools
from editcli.store.edits import changes_between, described, pruning_of, without_heads
from editcli.store.records import About, Version
from editcli.store.store import Store
from editcli.store.tables.contents import Entry
from editcli.store.transaction import Changes, Transaction
from editcli.wording import listed
from editors import METHODS, EditorError, Fact, FactClosure

SHOWN = 5  # ids in an error


@dataclass(frozen=True, slots=True)
class TakenBack:
    """``undone``: facts that are no longer in force; ``returned``: facts that are so again;
    ``heads``: whether pruned heads were put back; ``stale``: whether those that are left were
    ranked with other edits; ``failed``: ids of facts that were trained for it, and are not
    answered; ``version``: the new version, None if nothing was to be written."""

    version: Version | None
    undone: tuple[Fact, ...] = ()
    returned: tuple[Fact, ...] = ()
    heads: bool = False
    stale: bool = False
    failed: tuple[str, ...] = ()
    iterations: int = 0


def take_back(
    call: Invocation,
    store: Store,
    transaction: Transaction | None,
    facts: Sequence[str],
    *,
    heads: bool,
) -> TakenBack:
    """Take back the facts with these ids (or starts of ids), and the pruned heads with ``heads``;
    without a ``transaction``, only say what would be done.

    Raises:
        EditorError: a fact is not in force, no heads are pruned, or the method takes back no
            single facts.
    """
    parent = store.head()
    edits = described(store, parent)
    if heads and edits.pruning is None:
        raise EditorError(
            f"no heads are pruned in {parent.id}",
            "`editcli log --operation resolve` lists the versions that pruned heads",
        )
    undone = [entry.fact for entry in _entries(store, parent, facts) if entry.fact]
    if undone and (reason := METHODS.load(edits.method).why_no_undo(edits.settings)):
        raise EditorError(reason, "`editcli checkout V` goes back to a version without the fact")
    remaining = edits
    if edits.pruning is not None:
        closed = {fact.id: FactClosure("undone") for fact in undone}
        remaining = replace(edits.closing(closed), pruning=None if heads else edits.pruning)
    result = TakenBack(None, tuple(undone), heads=heads, stale=remaining.stale)
    if transaction is None:
        return result
    if undone and METHODS.load(edits.method).undo == "retraining":
        return _retrained(call, store, transaction, result)
    blobs = without_heads(store, parent) if heads else {}
    changes = Changes(closed={fact.id: None for fact in undone}, blobs=blobs)
    return replace(result, version=transaction.publish("undo", changes, **_about(call, result)))


def take_back_version(
    call: Invocation, store: Store, transaction: Transaction | None, version: Version
) -> TakenBack:
    """Take back all that ``version`` did: facts that it added are no longer in force, and those
    that it closed are so again. Where ``version`` is HEAD, its parent's content comes back as it
    was. Else facts that come back are trained again.

    Raises:
        EditorError: it is the first version, it purged, nothing is left to take back, or another
            fact stands where one would come back.
    """
    parent, head = _parent(store, version), store.head()
    after, before = store.diff(version, parent)  # what it added, and what it closed
    if any(entry.fact is None for entry in (*after, *before)) or version.operation == "purge":
        raise EditorError(
            f"{version.id} cannot be taken back: facts of it were purged", "apply other facts"
        )
    if version.id == head.id:
        return _as_before(call, store, transaction, head, parent, after, before)
    undone = [e.fact for e in after if e.fact and store.entry(head, e.fact.id)]
    returned = [e.fact for e in before if e.fact and not store.entry(head, e.fact.id)]
    changes_heads = pruning_of(store, version) != pruning_of(store, parent)
    if not (undone or returned):
        hint = "`editcli undo --heads` puts pruned heads back" if changes_heads else ""
        raise EditorError(f"nothing that {version.id} did to facts is in force in {head.id}", hint)
    result = TakenBack(None, tuple(undone), tuple(returned))
    if not returned:
        return take_back(call, store, transaction, [fact.id for fact in undone], heads=False)
    _require_room(store, head, returned, undone)
    return result if transaction is None else _retrained(call, store, transaction, result)


def purge(
    call: Invocation, store: Store, transaction: Transaction, facts: Sequence[str]
) -> tuple[TakenBack, dict[str, int]]:
    """Take facts out of everything: their texts, and all that was trained with them, in all
    versions. Shards that held them are trained again from the facts that stay. Returns also how
    many records and blobs are gone.

    Raises:
        EditorError: there is no such fact.
    """
    from editcli.operations.session import Session

    ids = [store.full_id(fact) for fact in facts]
    session = Session.open(call, store)
    parent = store.head()
    before = session.state(parent)
    result = session.method.without(before, ids)
    changes = changes_between(store, parent, before, session.method.close(result.state))
    taken = TakenBack(
        None,
        tuple(before.facts[fact] for fact in ids if fact in before.facts),
        stale=result.state.stale,
        failed=result.failed,
        iterations=result.iterations,
    )
    about: About = {"who": call.who, "message": call.message, "tools": tools()}
    gone = transaction.purge(ids, changes, **about)
    store.journal.clear()
    counts = {"texts": gone.facts, "notes": gone.notes, "blobs": gone.blobs}
    return replace(taken, version=gone.version), counts


def _as_before(
    call: Invocation,
    store: Store,
    transaction: Transaction | None,
    head: Version,
    parent: Version,
    undone: Sequence[Entry],
    returned: Sequence[Entry],
) -> TakenBack:
    """The content of ``parent`` again, as a new version after ``head``."""
    old, now = store.blobs(parent), store.blobs(head)
    heads = pruning_of(store, head) != pruning_of(store, parent)
    blobs = {name: old.get(name) for name in {*old, *now} if old.get(name) != now.get(name)}
    result = TakenBack(
        None,
        tuple(entry.fact for entry in undone if entry.fact),
        tuple(entry.fact for entry in returned if entry.fact),
        heads,
        described(store, parent).stale,
    )
    if transaction is None:
        return result
    came_back = {fact.id for fact in result.returned}
    changes = Changes(
        again=[entry.text for entry in returned],
        closed={f.id: f.id if f.id in came_back else None for f in result.undone},
        blobs=blobs,
    )
    about = _about(call, result, of=head)
    return replace(result, version=transaction.publish("undo", changes, **about))


def _retrained(
    call: Invocation, store: Store, transaction: Transaction, planned: TakenBack
) -> TakenBack:
    """Do what is ``planned`` with the model: take facts back, and train those that come back."""
    from editcli.operations.session import Session

    session = Session.open(call, store)
    before = state = session.state()
    failed: list[str] = []
    iterations = 0
    if planned.undone:
        removed = session.method.remove(state, [fact.id for fact in planned.undone])
        state, failed, iterations = removed.state, [*removed.failed], removed.iterations
    if planned.returned:
        applied = session.method.apply(
            state, planned.returned, cache=store.journal, on_progress=lambda _: True
        )
        state = applied.state
        failed, iterations = [*failed, *applied.failed], iterations + applied.iterations
    pruning = None if planned.heads else state.pruning
    result = replace(planned, failed=tuple(failed), iterations=iterations)
    version = session.publish(
        transaction, "undo", before, replace(state, pruning=pruning), **_about(call, result)
    )
    store.journal.clear()
    return replace(result, version=version)


def _about(call: Invocation, result: TakenBack, of: Version | None = None) -> About:
    extra: dict[str, Any] = {"heads": result.heads, "stale": result.stale}
    if of is not None:
        extra["of"] = of.id
    if result.iterations:
        extra |= {"iterations": result.iterations, "failed": list(result.failed)}
    return {"who": call.who, "message": call.message, "tools": tools(), "extra": extra}


def _entries(store: Store, version: Version, prefixes: Sequence[str]) -> list[Entry]:
    """What brought these facts in force, each once. Raises EditorError for one not in force."""
    found = {}
    for prefix in prefixes:
        fact = store.full_id(prefix)
        entry = store.entry(version, fact)
        if entry is None:
            past = store.past(version, fact)
            closure = past.closure if past else None
            by = f" by {closure.replaced_by}" if closure and closure.replaced_by else ""
            why = f": it was {closure.reason}{by}" if closure else ""
            raise EditorError(
                f"fact {fact} is not in force in {version.id}{why}",
                f"`editcli show {fact}` shows when and by whom",
            )
        found[fact] = entry
    return [*found.values()]


def _parent(store: Store, version: Version) -> Version:
    if not version.parent:
        raise EditorError(f"{version.id} made the store, and nothing is before it")
    return store.version(version.parent)


def _require_room(
    store: Store, head: Version, returned: Sequence[Fact], undone: Sequence[Fact]
) -> None:
    """Raise EditorError where another fact in force answers the prompt of one that comes back."""
    leaving = {fact.id for fact in undone}
    wanted = {fact.prompt for fact in returned}
    others = [
        entry.fact.id
        for entry in store.in_force(head)
        if entry.fact and entry.fact.prompt in wanted and entry.fact.id not in leaving
    ]
    if others:
        raise EditorError(
            f"newer facts answer the same prompts: {listed(others, SHOWN)}",
            "take these back first, by id or by version",
        )
