"""In-context editing on one base. Prompts are rewritten before the model is called."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from editors.facts import Fact
from editors.inference.decisions import Decision, decided
from editors.inference.edited_model import Rewriter
from editors.methods.applying import Applied, Limits, Trained
from editors.methods.base import Method
from editors.methods.edit_state import EditState
from editors.methods.elsewhere import Dispatch, Elsewhere
from editors.methods.in_context import SPEC, InContextSettings
from editors.methods.spec import MethodSpec
from editors.model.base_model import Base
from editors.model.saved_payload import SavedPayload
from editors.model.tokenization import Prompt, encode_pairs, encode_prompts
from editors.scope.base import ByteCache
from editors.scope.corpus import Corpus
from editors.scope.fact_scope import FactScope
from editors.scope.scope_state import ScopeState

FACTS_AT_ONCE = 100  # facts that the scope signal learns together


class InContext(Method[ScopeState, InContextSettings]):
    """In-context editing. The payload is the state of the scope signal."""

    spec: ClassVar[MethodSpec] = SPEC

    def __init__(self, base: Base, settings: InContextSettings, seed: int) -> None:
        super().__init__(base, settings, seed)
        self._scope = FactScope(base, settings)

    def initial_payload(self, corpus: Corpus, cache: ByteCache) -> ScopeState:
        return self._scope.start(corpus, cache)

    def require_trainable(self, fact: Fact) -> None:
        prompt = self.settings.before(fact, fact.prompt)
        context = self.base.architecture.context
        encode_pairs(self.base.tokenizer, [(prompt, fact.target)], stop=True, context=context)

    def group_size(self, state: EditState) -> int:
        return FACTS_AT_ONCE

    def train(
        self, state: EditState, group: Sequence[Fact], cache: ByteCache, limits: Limits
    ) -> tuple[EditState, Trained]:
        """Let the scope signal learn the facts; there is nothing else to train."""
        return replace(state, payload=self._scope.knowing(state.payload, group)), Trained()

    def contradicted(self, state: EditState, facts: Sequence[Fact]) -> Mapping[str, str]:
        return self._scope.contradicted(state.payload, state.in_force(), facts)

    def finish(self, state: EditState) -> EditState:
        return replace(state, payload=self._scope.only(state.payload, state.in_force()))

    def without(self, state: EditState, facts: Collection[str]) -> Applied:
        return Applied(replace(state.dropping(facts), payload=state.payload.dropping(facts)))

    def dump(self, payload: ScopeState) -> SavedPayload:
        return payload.dump()

    def load(self, saved: SavedPayload, state: EditState) -> ScopeState:
        return ScopeState.load(saved, [*state.facts])

    def rewriter(self, state: EditState) -> Rewriter:
        router = self._scope.router(
            state.payload,
            state.facts,
            lambda fact: -1 if fact in state.closed else 0,
            context_first=state.prefers_context,
        )

        def rewrite(prompts: Sequence[Prompt]) -> list[tuple[Prompt, Decision]]:
            with self.base.probing():
                decisions = decided(router, encode_prompts(self.base.tokenizer, prompts))
            return [
                (self._with_fact(prompt, state.facts[decision.fact]), decision)
                if decision.opened and decision.fact
                else (prompt, decision)
                for prompt, decision in zip(prompts, decisions, strict=True)
            ]

        return rewrite

    def elsewhere(self, state: EditState) -> Elsewhere:
        """The engine sees the prompts that the model would see here."""
        self._scope.require_no_base(state.payload)
        rewrite = self.rewriter(state)

        def dispatch(prompts: Sequence[Prompt]) -> list[Dispatch]:
            return [
                Dispatch(decision, _changed_text(prompt) if decision.opened else None)
                for prompt, decision in rewrite(prompts)
            ]

        return Elsewhere(dispatch)

    def _with_fact(self, prompt: Prompt, fact: Fact) -> Prompt:
        """``prompt`` with the fact before it; of a chat, with the fact in its system turn."""
        if isinstance(prompt, str):
            return self.settings.before(fact, prompt)
        instruction, turns = self.settings.instruction(fact), list(prompt)
        if turns and turns[0]["role"] == "system":
            instruction = f"{turns.pop(0)['content']}\n\n{instruction}"
        return [{"role": "system", "content": instruction}, *turns]

    def other_model(self, state: EditState) -> Path | None:
        return self._scope.other_model(state.payload)

    def with_other_model(self, state: EditState, folder: Path) -> EditState:
        return replace(state, payload=self._scope.with_other_model(state.payload, folder))

    def explain(self, decision: Decision | None, state: EditState) -> tuple[str, dict[str, Any]]:
        if decision is None or not decision.opened:
            return "", {}
        scope = state.payload
        why = self._scope.signal(scope).explain(decision, scope.keys[decision.fact])
        return f"fact {decision.fact} was put before the prompt: {why}", {}


def _changed_text(prompt: Prompt) -> str:
    """What a fact was put into: a text, or the system turn of a chat."""
    return prompt if isinstance(prompt, str) else prompt[0]["content"]
