"""What another package may bring: an editing method, and scope signals of every kind.

The method puts a fact's target before the fact's own prompt, and keeps nothing. The signals claim a
prompt that names a fact's subject where, besides, something else holds: what one reads in the
forward that answers, what another finds by forwards of its own on other text, and what a third asks
a model of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from editors.facts import Fact
from editors.inference.decisions import UNCLAIMED, Decision, Proposal
from editors.inference.edited_model import Rewriter
from editors.inference.hidden_states import StateRequest, last_token_states
from editors.methods.applying import Limits, Trained
from editors.methods.base import Method
from editors.methods.edit_state import EditState
from editors.methods.spec import MethodSpec
from editors.model.base_model import Base
from editors.model.saved_payload import SavedPayload
from editors.model.tokenization import Ids, Prompt, encode_prompt
from editors.scope.base import (
    AsksBaseOnly,
    ByteCache,
    ClaimRouter,
    FactKeys,
    Learning,
    Settings,
    Tensors,
    Wording,
    explain_score,
)
from editors.scope.corpus import Corpus
from editors.scope.unrelated_prompts import UnrelatedPrefixes

# --- a method -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QuoteSettings:
    """No settings at all."""


SPEC = MethodSpec(
    name="toy-quote",
    title="the target is put before the fact's own prompt",
    reference="",
    routed=True,
    undo="exact",
    cost="nothing",
    settings=QuoteSettings,
    implementation="toy_editcli_package:Quote",
)


class Quote(Method[None, QuoteSettings]):
    """Answers a fact's own prompt, letter by letter, and no other."""

    spec: ClassVar[MethodSpec] = SPEC

    def initial_payload(self, corpus: Corpus, cache: ByteCache) -> None:
        return None

    def train(
        self, state: EditState, group: Sequence[Fact], cache: ByteCache, limits: Limits
    ) -> tuple[EditState, Trained]:
        return state, Trained()

    def dump(self, payload: None) -> SavedPayload:
        return SavedPayload({})

    def load(self, saved: SavedPayload, state: EditState) -> None:
        return None

    def rewriter(self, state: EditState) -> Rewriter | None:
        facts = {fact.prompt: fact for fact in state.in_force()}

        def rewrite(prompts: Sequence[Prompt]) -> list[tuple[Prompt, Decision]]:
            return [
                (f"{facts[prompt].target} {prompt}", Decision(0, facts[prompt].id, 1.0, 0.0))
                if isinstance(prompt, str) and prompt in facts
                else (prompt, UNCLAIMED)
                for prompt in prompts
            ]

        return rewrite

    def explain(self, decision: Decision | None, state: EditState) -> tuple[str, dict[str, Any]]:
        return ("quoted", {}) if decision and decision.opened else ("", {})


# --- scope signals --------------------------------------------------------------------------------


class Named:
    """What the signals have in common: a prompt that names a subject is a candidate."""

    reads: tuple[int, ...] = ()

    def __init__(
        self,
        signal: ToySignal,
        facts: Sequence[Fact],
        keys: Sequence[FactKeys],
        memories: Sequence[int],
    ) -> None:
        self.signal, self.facts, self.keys, self.memories = signal, facts, keys, memories

    def propose(self, prompts: Sequence[Ids]) -> Proposal:
        candidates = {}
        for number, text in enumerate(map(self.signal.text, prompts)):
            named = [
                i for i, fact in enumerate(self.facts) if fact.subject and fact.subject in text
            ]
            if named:
                candidates[number] = named
        return Proposal(prompts, [UNCLAIMED] * len(prompts), candidates)

    def decide(self, proposal: Proposal, states: torch.Tensor | None) -> list[Decision]:
        decisions = list(proposal.decisions)
        for row, (number, candidates) in enumerate(proposal.candidates.items()):
            own = None if states is None else states[row]
            scores = [
                (self.score(proposal.prompts[number], fact, own), fact) for fact in candidates
            ]
            score, fact = max(scores)
            memory = self.memories[fact] if score > 0.5 else -1
            decisions[number] = Decision(memory, self.facts[fact].id, score, 0.5)
        return decisions

    def speaks_of(self, prompt: Ids, fact: str) -> bool:
        return False

    def score(self, prompt: Ids, fact: int, states: torch.Tensor | None) -> float:
        raise NotImplementedError


class ToySignal(AsksBaseOnly):
    """A signal whose keys are made by :meth:`key`, all at once."""

    name: ClassVar[str] = ""
    learns_from: ClassVar[tuple[str, ...]] = ("groups",)
    router_type: ClassVar[type[Named]] = Named

    @classmethod
    def depends_on(cls, base: Base, settings: Settings) -> list[Any]:
        return []

    def __init__(self, base: Base, calibration: Tensors, prefixes: UnrelatedPrefixes) -> None:
        self.base, self.calibration = base, calibration

    @classmethod
    def calibrate(
        cls,
        base: Base,
        corpus: Corpus,
        prefixes: UnrelatedPrefixes,
        settings: Settings,
    ) -> Tensors:
        return {}

    def learn(self, facts: Sequence[Fact]) -> Learning:
        return ToyLearning({fact.id: {"key": self.key(fact)[None]} for fact in facts})

    def similarity(self, first: FactKeys, second: FactKeys) -> float:
        return float(torch.cosine_similarity(first["key"][0], second["key"][0], 0))

    def wordings(self, fact: Fact, keys: FactKeys) -> Sequence[Wording]:
        return ()

    def same_question(self, first: FactKeys, second: FactKeys) -> bool:
        return False

    def router(
        self, facts: Sequence[Fact], keys: Sequence[FactKeys], memories: Sequence[int]
    ) -> ClaimRouter:
        return self.router_type(self, facts, keys, memories)

    def explain(self, decision: Decision, keys: FactKeys) -> str:
        return f"{self.name} says {explain_score(decision)}"

    def text(self, prompt: Ids) -> str:
        return str(self.base.tokenizer.decode(list(prompt), skip_special_tokens=True))

    def key(self, fact: Fact) -> torch.Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class ToyLearning:
    """What was learnt at once."""

    own_keys: Mapping[str, FactKeys]
    request: StateRequest | None = None

    def keys(self) -> dict[str, FactKeys]:
        return dict(self.own_keys)


class _Reading(Named):
    """Reads the first block's output in the forward that answers."""

    reads = (0,)

    def score(self, prompt: Ids, fact: int, states: torch.Tensor | None) -> float:
        if states is None:
            states = last_token_states(self.signal.base, [prompt], self.reads, shared=True)[0]
        similar = torch.cosine_similarity(states[0], self.keys[fact]["key"][0], 0)
        return float(similar > 0.999)


class ReadingSignal(ToySignal):
    """Claims where the base makes of a prompt's last token what it made of the fact's."""

    name = "toy-reading"
    router_type = _Reading

    def key(self, fact: Fact) -> torch.Tensor:
        ids = encode_prompt(self.base.tokenizer, fact.prompt)
        return last_token_states(self.base, [ids], (0,))[0, 0]


class _Asking(Named):
    """Runs the prompt again with its subject masked: other text than the model answers."""

    def score(self, prompt: Ids, fact: int, states: torch.Tensor | None) -> float:
        assert isinstance(self.signal, AskingSignal)
        masked = self.signal.masked(self.signal.text(prompt), self.facts[fact].subject or "")
        return float(torch.cosine_similarity(masked, self.keys[fact]["key"][0], 0) > 0.999)


class AskingSignal(ToySignal):
    """Claims where a prompt without its subject is what the fact's prompt is without it."""

    name = "toy-asking"
    router_type = _Asking

    def masked(self, text: str, subject: str) -> torch.Tensor:
        ids = encode_prompt(self.base.tokenizer, text.replace(subject, "it"))
        logits: torch.Tensor = self.base.model(torch.tensor([ids]), use_cache=False).logits
        return logits[0, -1].detach().float()

    def key(self, fact: Fact) -> torch.Tensor:
        with self.base.probing():
            return self.masked(fact.prompt, fact.subject or "")


class _Encoded(Named):
    def score(self, prompt: Ids, fact: int, states: torch.Tensor | None) -> float:
        assert isinstance(self.signal, EncoderSignal)
        encoded = self.signal.encoded(self.signal.text(prompt))
        return float(torch.cosine_similarity(encoded, self.keys[fact]["key"][0], 0) > 0.99)


class EncoderSignal(ToySignal):
    """Asks an encoder of its own, here a bag of words, which calibration weighs."""

    name = "toy-encoder"
    needs_base = False
    router_type = _Encoded
    SIZE: ClassVar[int] = 64

    @classmethod
    def calibrate(
        cls,
        base: Base,
        corpus: Corpus,
        prefixes: UnrelatedPrefixes,
        settings: Settings,
    ) -> Tensors:
        counts = torch.ones(cls.SIZE)
        for group in corpus.groups:
            for prompt in group.prompts:
                counts += cls._bag(prompt)
        return {"weights": 1 / counts}

    @classmethod
    def _bag(cls, text: str) -> torch.Tensor:
        bag = torch.zeros(cls.SIZE)
        for word in text.split():
            bag[sum(map(ord, word)) % cls.SIZE] += 1
        return bag

    def encoded(self, text: str) -> torch.Tensor:
        return self._bag(text) * self.calibration["weights"]

    def key(self, fact: Fact) -> torch.Tensor:
        return self.encoded(fact.prompt)
