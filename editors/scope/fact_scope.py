"""The scope signal of a routed method: learns facts, and makes routers over them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path

from editors.errors import EditorError
from editors.facts import Fact
from editors.inference.decisions import Router
from editors.model.base_model import Base
from editors.model.tensor_files import from_bytes, to_bytes
from editors.scope.base import ByteCache, ScopeSignal, Tensors
from editors.scope.context_first import ContextFirstRouter
from editors.scope.corpus import Corpus
from editors.scope.registry import SIGNALS
from editors.scope.scope_state import ScopeState
from editors.scope.settings import ScopeSettings
from editors.scope.unrelated_prompts import UnrelatedPrefixes
from editors.text_matching.names import folded_name

VERSION = 1  # of the calibration of signals; with another version, saved calibrations are not read


class FactScope:
    """The scope signal that the settings name, on one base. What it knows is in a
    :class:`~editors.scope.scope_state.ScopeState`."""

    def __init__(self, base: Base, settings: ScopeSettings) -> None:
        self._base, self._settings = base, settings
        self.prefixes = UnrelatedPrefixes(base)
        self._loaded: tuple[Tensors, ScopeSignal] | None = None  # a calibration and its signal

    def start(self, corpus: Corpus, cache: ByteCache) -> ScopeState:
        """The state without facts: the signal is calibrated on ``corpus``, or its calibration
        is read from ``cache``. Raises the errors of :meth:`ScopeSignal.calibrate`."""
        base, scope = self._base, self._settings.scope
        signal = SIGNALS.load(scope)
        settings = asdict(self._settings)
        learnt_from = [corpus.plain(field) for field in signal.learns_from]
        recipe = [VERSION, signal.name, *signal.depends_on(base, settings), *learnt_from]
        key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
        saved = cache.get(key)
        if saved is None:
            saved = to_bytes(signal.calibrate(base, corpus, self.prefixes, settings))
            cache.put(key, saved)
        return ScopeState(scope, from_bytes(saved))

    def signal(self, state: ScopeState) -> ScopeSignal:
        """The signal with the calibration of ``state``."""
        if self._loaded is None or self._loaded[0] is not state.calibration:
            signal = SIGNALS.load(state.signal)(self._base, state.calibration, self.prefixes)
            self._loaded = state.calibration, signal
        return self._loaded[1]

    def other_model(self, state: ScopeState) -> Path | None:
        """The folder of the model that the signal asks besides the base; None if there is none."""
        return SIGNALS.load(state.signal).other_model(state.calibration)

    def with_other_model(self, state: ScopeState, folder: Path) -> ScopeState:
        """``state`` for the same other model in ``folder``."""
        signal = SIGNALS.load(state.signal)
        return replace(state, calibration=signal.with_other_model(state.calibration, folder))

    def require_no_base(self, state: ScopeState) -> None:
        """Raise EditorError if the signal cannot decide without the weights of the base."""
        signal = SIGNALS.load(state.signal)
        if getattr(signal, "needs_base", True):  # a signal of another package may not say it
            raise EditorError(
                f"the scope signal {state.signal!r} decides by what the base makes of a prompt, so "
                "it needs the weights of the base",
                "make a store whose signal reads prompts by itself: `editcli init MODEL --scope "
                "sentence`",
            )

    def knowing(self, state: ScopeState, facts: Sequence[Fact]) -> ScopeState:
        """``state`` with the keys of all of ``facts``; facts without keys are learnt."""
        unknown = [fact for fact in facts if fact.id not in state.keys]
        return state.knowing(self.signal(state).learn(unknown).keys()) if unknown else state

    def only(self, state: ScopeState, facts: Sequence[Fact]) -> ScopeState:
        """``state`` with the keys of ``facts`` only, in this order; facts without keys are
        learnt."""
        return self.knowing(state, facts).only([fact.id for fact in facts])

    def contradicted(
        self, state: ScopeState, in_force: Sequence[Fact], new: Sequence[Fact]
    ) -> dict[str, str]:
        """The facts ``in_force`` that ask the question of one of ``new`` about the same subject in
        other words, with another target: by id, the id of that one. All of them are in ``state``,
        and ``new`` are among ``in_force``, in the order of editing."""
        signal, ids = self.signal(state), {fact.id for fact in new}
        by_name: dict[str, list[Fact]] = {
            folded_name(fact.subject): [] for fact in new if fact.subject
        }
        for fact in in_force if by_name else ():
            if fact.subject and (name := folded_name(fact.subject)) in by_name:
                by_name[name].append(fact)
        return {
            older.id: newer.id
            for facts in by_name.values()
            for older, newer in combinations(facts, 2)
            if newer.id in ids and older.target != newer.target
            if signal.same_question(state.keys[older.id], state.keys[newer.id])
        }

    def router(
        self,
        state: ScopeState,
        facts: Mapping[str, Fact],
        memory_of: Callable[[str], int],
        *,
        context_first: bool,
    ) -> Router:
        """A router over the facts in ``state``; ``facts``: at least these facts, by id.

        ``memory_of(id)``: the number of the memory that answers for a fact, -1 for the base.
        ``context_first``: an edit yields to a passage about its fact.
        """
        learnt = [facts[fact] for fact in state.keys]
        memories = [memory_of(fact) for fact in state.keys]
        router = self.signal(state).router(learnt, [*state.keys.values()], memories)
        return ContextFirstRouter(router) if context_first else router
