"""Moving a store to another base: the same in another place, or one that facts are trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editcli.cli.options import Invocation
from editcli.errors import BelowThreshold
from editcli.files.corpus import read_corpus
from editcli.files.packaged import ShippedCalibrations
from editcli.models.libraries import tools, use_threads
from editcli.models.loading import dtype_name, load_base
from editcli.models.outlines import outline_base
from editcli.models.recorded.found_base import FoundBase
from editcli.operations.editing.on_head import saved_on_head
from editcli.operations.scores.minima import missed
from editcli.operations.scores.records import HEADLINES, Scores, kept_scores
from editcli.operations.session import Session
from editcli.store.changes import Changes
from editcli.store.edits import changes_between, edits_of
from editcli.store.records import StoreConfig, Version
from editcli.store.run import Run
from editcli.store.store import Store
from editcli.store.transaction import Transaction
from editcli.wording import listed
from editors import METHODS, EditorError, Fact, UnsupportedArchitecture

if TYPE_CHECKING:
    from editors.methods.applying import Progress
    from editors.methods.edit_state import EditState
    from editors.model.base_model import Base

SHOWN = 4
OF = "the facts in force"
ANEW = "make a store on it, and apply the facts there: `editcli init MODEL --store DIR`"


@dataclass(frozen=True, slots=True)
class Rebased:
    """``trained``: how many facts were trained on the new base; ``failed``: the ids of those that
    it does not answer; ``before`` and ``after``: the scores on both bases, as a store keeps them,
    None where they were not measured. ``version``: None if nothing was done."""

    version: Version | None
    parent: Version
    config: StoreConfig
    trained: int = 0
    failed: tuple[str, ...] = ()
    iterations: int = 0
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


def rebase(
    call: Invocation,
    store: Store,
    found: FoundBase,
    *,
    layer: int | None,
    calibration: Path | None,
    minima: Mapping[str, float | None],
) -> Rebased:
    """Move ``store`` to the base ``found``, as one version, or not at all. Where it is the base of
    the store, only the configuration changes; else all facts in force are trained on it. ``layer``:
    the block to edit, by default that of the store.

    Raises:
        BelowThreshold: the facts score below one of ``minima`` on the new base.
        UnsupportedArchitecture: the new base cannot be edited as the store's was.
        EditorError: heads are pruned, a fact does not fit the new base, or it cannot be loaded.
    """
    config = store.config
    if _is_same(found, config, layer):
        return _moved(call, store, found.in_place_of(config))
    use_threads(call.threads)
    _require_fit(found, config, layer)
    with store.run() as run:
        moving = _Moving(call, store, found, layer, calibration, minima, run)
        unrecorded = not config.files and layer in (None, config.layer)
        if unrecorded and moving.base.fingerprint() == config.fingerprint:
            return _moved(call, store, found.in_place_of(config))
        return saved_on_head(call, store, moving.train, moving.save)


def rebase_forecast(store: Store, found: FoundBase, *, layer: int | None) -> Rebased:
    """What :func:`rebase` would do, as far as that is known without the weights. Its errors."""
    head, config = store.head(), store.config
    if _is_same(found, config, layer):
        return Rebased(None, head, found.in_place_of(config))
    _require_fit(found, config, layer)
    edits = edits_of(store, head)
    _require_all_heads(edits)
    return Rebased(None, head, found.in_place_of(config), trained=len(edits.in_force()))


def _is_same(found: FoundBase, config: StoreConfig, layer: int | None) -> bool:
    """Whether ``found`` is the base of the store, as far as its files are recorded."""
    same_layer = layer in (None, config.layer)
    return bool(config.files) and same_layer and not found.problems(config)


def _require_all_heads(edits: EditState) -> None:
    if edits.pruning is not None:
        raise EditorError(
            "heads are pruned, and they were ranked on the base that is to be left",
            "`editcli undo --heads` puts them back; rank those of the new base afterwards",
        )


def _moved(call: Invocation, store: Store, config: StoreConfig) -> Rebased:
    with call.writing(store) as transaction:
        head = store.head()
        version = head
        if config != store.config:
            about: Any = {"who": call.who, "message": call.message, "tools": tools()}
            version = transaction.publish("rebase", Changes(), config=config.to_toml(), **about)
    return Rebased(version, head, config)


def _require_fit(found: FoundBase, config: StoreConfig, layer: int | None) -> None:
    """Raise UnsupportedArchitecture where the block of the store cannot be edited in the base."""
    chosen = config.layer if layer is None else layer
    try:
        base = outline_base(found.base, found.revision, found.adapter, found.remote_code, chosen)
        METHODS.load(config.method).build(base, config.settings, config.seed).edited_projections()
    except EditorError as error:
        raise UnsupportedArchitecture(
            f"the store cannot move to {found.shown}: {error.message}",
            f"{error.hint}; or {ANEW}" if error.hint else ANEW,
        ) from error


@dataclass(frozen=True, slots=True)
class _Trained:
    """What is to be published: the changes, and what is told of them."""

    changes: Changes
    rebased: Mapping[str, Any]


@dataclass
class _Moving:
    """One call of :func:`rebase` to another base."""

    call: Invocation
    store: Store
    found: FoundBase
    layer: int | None
    calibration: Path | None
    minima: Mapping[str, float | None]
    run: Run

    @cached_property
    def base(self) -> Base:
        """The new base, loaded."""
        call, config, found = self.call, self.store.config, self.found
        return load_base(
            found.base,
            revision=found.revision,
            device=call.device,
            dtype=config.dtype if call.dtype == "auto" else call.dtype,
            layer=config.layer if self.layer is None else self.layer,
            verbose=call.verbose,
            tell=call.tell,
            edits=METHODS.load(config.method).edits,
            adapter=found.adapter,
            code=found.remote_code,
        )

    @cached_property
    def config(self) -> StoreConfig:
        """The configuration of the store on the new base."""
        return replace(
            self.found.in_place_of(self.store.config),
            fingerprint=self.base.fingerprint(),
            layer=self.base.layer,
            dtype=dtype_name(self.base),
        )

    @cached_property
    def session(self) -> Session:
        """The store's method on the new base."""
        config = self.config
        method = METHODS.load(config.method).build(self.base, config.settings, config.seed)
        method.self_test()
        return Session(self.store, self.base, method)

    def train(self, head: Version) -> _Trained:
        """Train the facts in force in ``head`` on the new base, and score them on both."""
        call, store = self.call, self.store
        before = edits_of(store, head)
        _require_all_heads(before)
        facts = before.in_force()
        old = self._scores_before(head, facts)
        session = self.session
        for fact in facts:
            if reason := session.why_unfit(fact):
                raise EditorError(
                    f"fact {fact.id} ({fact.prompt}) does not fit {self.found.shown}: {reason}",
                    f"`editcli undo {fact.id}` takes it back first",
                )
        if gone := self.run.relies_on([fact.id for fact in facts]):
            raise EditorError(f"{listed(gone, SHOWN)} purged meanwhile", "run the command again")
        state = session.method.start(read_corpus(self.calibration), ShippedCalibrations())
        failed: tuple[str, ...] = ()
        iterations, new = 0, None
        if facts:
            with call.out.progress("training", len(facts)) as bar:

                def on_progress(progress: Progress) -> bool:
                    bar.reach(progress.done)
                    return True

                result = session.method.apply(state, facts, cache=self.run, on_progress=on_progress)
            state, failed, iterations = result.state, result.failed, result.iterations
            scores = _scored(session, state, facts)
            new = kept_scores(OF, scores)
            if below := [*missed(scores, self.minima)]:
                raise BelowThreshold(
                    f"nothing is changed: on {self.found.shown}, {'; '.join(below)}",
                    "lower the minimum, or stay on the old base",
                )
        return _Trained(
            changes_between(store, head, before, session.method.close(state)),
            {
                "trained": len(facts),
                "failed": failed,
                "iterations": iterations,
                "before": old,
                "after": new,
            },
        )

    def save(self, transaction: Transaction, head: Version, trained: _Trained) -> Rebased:
        """Publish what was trained, and the configuration with the new base."""
        told = trained.rebased
        version = transaction.publish(
            "rebase",
            trained.changes,
            config=self.config.to_toml(),
            who=self.call.who,
            message=self.call.message,
            tools=tools(),
            extra={**told, "failed": list(told["failed"])},
        )
        if told["after"]:
            transaction.record_scores(version, told["after"], who=self.call.who)
        self.run.forget()
        return Rebased(version, head, self.config, **told)

    def _scores_before(self, head: Version, facts: Sequence[Fact]) -> Mapping[str, Any] | None:
        """The scores of ``facts`` on the base that is to be left; None where it is gone."""
        if not facts:
            return None
        try:
            session = Session.open(self.call, self.store)
        except EditorError as error:
            self.call.out.note(f"there are no scores from before the move: {error.message}")
            return None
        return kept_scores(OF, _scored(session, session.state(head), facts))


def _scored(session: Session, state: EditState, facts: Sequence[Fact]) -> Scores:
    from editors.evaluation.edit_scores import score_edits

    scores = score_edits(
        session.base,
        lambda: session.method.attach(state),
        facts,
        headline=HEADLINES["plain"],
        teacher_forced=False,
    )
    return {"plain": scores}
