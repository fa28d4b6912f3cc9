"""Taking back what was done: facts, all that a version did, or all traces of facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from editcli.cli.options import Invocation
from editcli.models.libraries import tools
from editcli.operations.editing.on_head import saved_on_head
from editcli.store.changes import Changes
from editcli.store.edits import changes_between, described, pruning_of, without_heads
from editcli.store.records import About, Version
from editcli.store.run import Run
from editcli.store.store import Store
from editcli.store.tables.contents import Entry
from editcli.store.transaction import Transaction
from editcli.wording import listed
from editors import METHODS, EditorError, Fact, FactClosure

if TYPE_CHECKING:
    from editcli.operations.session import Session

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


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be done (``result``, without a version), and what of a store ``changes`` for it,
    None where facts have to be trained first. ``of``: the version that is taken back as a whole."""

    result: TakenBack
    changes: Changes | None = None
    of: Version | None = None


def take_back(
    call: Invocation, store: Store, facts: Sequence[str], *, heads: bool, dry_run: bool
) -> TakenBack:
    """Take back the facts with these ids (or starts of ids), and the pruned heads with ``heads``;
    with ``dry_run``, only say what would be done.

    Raises:
        EditorError: a fact is not in force, no heads are pruned, or the method takes back no
            single facts.
    """
    return _done(call, store, lambda head: _plan(store, head, facts, heads=heads), dry_run=dry_run)


def take_back_version(
    call: Invocation, store: Store, version: Version, *, dry_run: bool
) -> TakenBack:
    """Take back all that ``version`` did: facts that it added are no longer in force, and those
    that it closed are so again. Where ``version`` is HEAD, its parent's content comes back as it
    was. Else facts that come back are trained again.

    Raises:
        EditorError: it is the first version, it purged, nothing is left to take back, or another
            fact stands where one would come back.
    """
    return _done(call, store, lambda head: _plan_of_version(store, head, version), dry_run=dry_run)


def purge(call: Invocation, store: Store, facts: Sequence[str]) -> tuple[TakenBack, dict[str, int]]:
    """Take facts out of everything: their texts, and all that was trained with them, in all
    versions. Shards that held them are trained again from the facts that stay. Returns also how
    many records and blobs are gone.

    Raises:
        EditorError: there is no such fact.
    """
    from editcli.operations.session import Session

    ids = [store.full_id(fact) for fact in facts]
    session = Session.open(call, store)

    def rest(head: Version) -> tuple[TakenBack, Changes]:
        before = session.state(head)
        result = session.method.without(before, ids)
        taken = TakenBack(
            None,
            tuple(before.facts[fact] for fact in ids if fact in before.facts),
            stale=result.state.stale,
            failed=result.failed,
            iterations=result.iterations,
        )
        return taken, changes_between(store, head, before, session.method.close(result.state))

    def save(
        transaction: Transaction, head: Version, done: tuple[TakenBack, Changes]
    ) -> tuple[TakenBack, dict[str, int]]:
        about: About = {"who": call.who, "message": call.message, "tools": tools()}
        gone = transaction.purge(ids, done[1], **about)
        counts = {"texts": gone.facts, "notes": gone.notes, "blobs": gone.blobs}
        return replace(done[0], version=gone.version), counts

    return saved_on_head(call, store, rest, save)


def _done(
    call: Invocation, store: Store, plan: Callable[[Version], _Plan], *, dry_run: bool
) -> TakenBack:
    """Do what is planned for the version that is HEAD."""
    if dry_run:
        return plan(store.head()).result
    with ExitStack() as held:

        @cache
        def trainer() -> _Trainer:
            return _Trainer.open(call, store, held.enter_context(store.run()))

        def work(head: Version) -> _Plan:
            planned = plan(head)
            return planned if planned.changes is not None else trainer().trained(head, planned)

        def save(transaction: Transaction, head: Version, planned: _Plan) -> TakenBack:
            result = planned.result
            about = _about(call, result, planned.of)
            config = _config_before(store, transaction, planned.of) if planned.of else None
            changes = planned.changes or Changes()
            version = transaction.publish("undo", changes, config=config, **about)
            if trainer.cache_info().currsize:
                trainer().run.forget()
            return replace(result, version=version)

        return saved_on_head(call, store, work, save)


def _config_before(store: Store, transaction: Transaction, taken: Version) -> bytes | None:
    """The text of the configuration that has to be in force once the version ``taken`` is taken
    back; None where the one that is in force will do."""
    parent = _parent(store, taken)
    changed = taken.config != parent.config
    # Where it did not change the configuration, its parent may still have been on another base.
    return (transaction.config_of(parent) if changed else None) or transaction.config_for(parent)


@dataclass(frozen=True, slots=True)
class _Trainer:
    """The model, for what is taken back by training."""

    session: Session
    run: Run

    @staticmethod
    def open(call: Invocation, store: Store, run: Run) -> _Trainer:
        from editcli.operations.session import Session

        return _Trainer(Session.open(call, store), run)

    def trained(self, head: Version, planned: _Plan) -> _Plan:
        """``planned`` after taking facts back, and training those that come back."""
        method, result = self.session.method, planned.result
        before = state = self.session.state(head)
        self.run.relies_on(before.facts)
        failed: list[str] = []
        iterations = 0
        if result.undone:
            removed = method.remove(state, [fact.id for fact in result.undone])
            state, failed, iterations = removed.state, [*removed.failed], removed.iterations
        if result.returned:
            applied = method.apply(
                state, result.returned, cache=self.run, on_progress=lambda _: True
            )
            state = applied.state
            failed, iterations = [*failed, *applied.failed], iterations + applied.iterations
        state = replace(state, pruning=None if result.heads else state.pruning)
        return replace(
            planned,
            result=replace(result, failed=tuple(failed), iterations=iterations),
            changes=changes_between(self.session.store, head, before, method.close(state)),
        )


def _plan(store: Store, head: Version, facts: Sequence[str], *, heads: bool) -> _Plan:
    """Taking facts back, and with ``heads`` the pruned heads."""
    edits = described(store, head)
    if heads and edits.pruning is None:
        raise EditorError(
            f"no heads are pruned in {head.id}",
            "`editcli log --operation resolve` lists the versions that pruned heads",
        )
    undone = [entry.fact for entry in _entries(store, head, facts) if entry.fact]
    if undone and (reason := METHODS.load(edits.method).why_no_undo(edits.settings)):
        raise EditorError(reason, "`editcli checkout V` goes back to a version without the fact")
    remaining = edits
    if edits.pruning is not None:
        closed = {fact.id: FactClosure("undone") for fact in undone}
        remaining = replace(edits.closing(closed), pruning=None if heads else edits.pruning)
    result = TakenBack(None, tuple(undone), heads=heads, stale=remaining.stale)
    if undone and METHODS.load(edits.method).undo == "retraining":
        return _Plan(result)
    blobs = without_heads(store, head) if heads else {}
    return _Plan(result, Changes(closed={fact.id: None for fact in undone}, blobs=blobs))


def _plan_of_version(store: Store, head: Version, version: Version) -> _Plan:
    """Taking back all that ``version`` did."""
    parent = _parent(store, version)
    after, before = store.diff(version, parent)  # what it added, and what it closed
    if any(entry.fact is None for entry in (*after, *before)) or version.operation == "purge":
        raise EditorError(
            f"{version.id} cannot be taken back: facts of it were purged", "apply other facts"
        )
    if version.id == head.id:
        return _as_before(store, head, parent, after, before)
    undone = [e.fact for e in after if e.fact and store.entry(head, e.fact.id)]
    returned = [e.fact for e in before if e.fact and not store.entry(head, e.fact.id)]
    if not (undone or returned):
        changes_heads = pruning_of(store, version) != pruning_of(store, parent)
        hint = "`editcli undo --heads` puts pruned heads back" if changes_heads else ""
        raise EditorError(f"nothing that {version.id} did to facts is in force in {head.id}", hint)
    if not returned:
        return _plan(store, head, [fact.id for fact in undone], heads=False)
    _require_room(store, head, returned, undone)
    return _Plan(TakenBack(None, tuple(undone), tuple(returned)))


def _as_before(
    store: Store,
    head: Version,
    parent: Version,
    undone: Sequence[Entry],
    returned: Sequence[Entry],
) -> _Plan:
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
    came_back = {fact.id for fact in result.returned}
    changes = Changes(
        again=[entry.text for entry in returned],
        closed={f.id: f.id if f.id in came_back else None for f in result.undone},
        blobs=blobs,
    )
    return _Plan(result, changes, of=head)


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
