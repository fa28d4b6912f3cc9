"""A scope signal at work: what a routed method asks to know which prompts its facts claim."""

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
    """The signal that the settings name, on one base; what it knows is in a
    :class:`~editors.scope.scope_state.ScopeState`."""

    def __init__(self, base: Base, settings: ScopeSettings) -> None:
        self._base, self._settings = base, settings
        self.prefixes = UnrelatedPrefixes(base)
        self._last: tuple[Tensors, ScopeSignal] | None = None  # of the calibration beside it

    def start(self, phrasings: Sequence[Phrasings], cache: ByteCache) -> ScopeState:
        """What the signal knows before any fact: the base, calibrated on ``phrasings``."""
        settings = self._settings
        wanted = {"rank": settings.rank, "false_open": settings.false_open}
        signal = SIGNALS.load(settings.scope)
        calibration = calibration_of(signal, self._base, phrasings, self.prefixes, wanted, cache)
        return ScopeState(settings.scope, calibration)

    def signal(self, state: ScopeState) -> ScopeSignal:
        """The signal with the calibration of ``state``."""
        if self._last is None or self._last[0] is not state.calibration:
            made = SIGNALS.load(state.signal)(self._base, state.calibration, self.prefixes)
            self._last = state.calibration, made
        return self._last[1]

    def learn(self, state: ScopeState, facts: Sequence[Fact]) -> Learning:
        """Begin to learn ``facts``."""
        return self.signal(state).learn(facts)

    def knowing(self, state: ScopeState, facts: Sequence[Fact]) -> ScopeState:
        """``state`` with what the signal knows of these facts; those it lacks are learnt."""
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
        """A router over the facts that the signal knows; ``facts``: at least those, by id.

        ``memory_of(id)``: what answers for a fact, -1 for the base. ``context_first``: an edit
        yields to a passage that speaks of its fact.
        """
        known = [facts[fact] for fact in state.keys]
        memories = [memory_of(fact) for fact in state.keys]
        router = self.signal(state).router(known, [*state.keys.values()], memories)
        return ContextFirstRouter(router) if context_first else router
