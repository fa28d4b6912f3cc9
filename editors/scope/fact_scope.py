"""The scope signal of a routed method: learns facts, and makes routers over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from editors.facts import Fact
from editors.inference.decisions import Router
from editors.model.base_model import Base
from editors.scope.base import Learning, ScopeSignal, Tensors
from editors.scope.calibrated import ByteCache, calibration_of
from editors.scope.context_first import ContextFirstRouter
from editors.scope.phrasings import Phrasings
from editors.scope.registry import SIGNALS
from editors.scope.scope_state import ScopeState
from editors.scope.settings import ScopeSettings
from editors.scope.unrelated_prompts import UnrelatedPrefixes


class FactScope:
    """The scope signal that the settings name, on one base. What it knows is in a
    :class:`~editors.scope.scope_state.ScopeState`."""

    def __init__(self, base: Base, settings: ScopeSettings) -> None:
        self._base, self._settings = base, settings
        self.prefixes = UnrelatedPrefixes(base)
        self._loaded: tuple[Tensors, ScopeSignal] | None = None  # a calibration and its signal

    def start(self, phrasings: Sequence[Phrasings], cache: ByteCache) -> ScopeState:
        """The state without facts: the signal is calibrated on ``phrasings``, or read from
        ``cache``."""
        settings = self._settings
        signal_settings = {"rank": settings.rank, "false_open": settings.false_open}
        signal = SIGNALS.load(settings.scope)
        calibration = calibration_of(
            signal, self._base, phrasings, self.prefixes, signal_settings, cache
        )
        return ScopeState(settings.scope, calibration)

    def signal(self, state: ScopeState) -> ScopeSignal:
        """The signal with the calibration of ``state``."""
        if self._loaded is None or self._loaded[0] is not state.calibration:
            signal = SIGNALS.load(state.signal)(self._base, state.calibration, self.prefixes)
            self._loaded = state.calibration, signal
        return self._loaded[1]

    def learn(self, state: ScopeState, facts: Sequence[Fact]) -> Learning:
        """Start learning ``facts``."""
        return self.signal(state).learn(facts)

    def knowing(self, state: ScopeState, facts: Sequence[Fact]) -> ScopeState:
        """``state`` with the keys of all of ``facts``; facts without keys are learnt."""
        unknown = [fact for fact in facts if fact.id not in state.keys]
        return state.knowing(self.learn(state, unknown).keys()) if unknown else state

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
