"""The scope signal ``key``: decides by hidden states of the unedited base at the last prompt token.

A fact has keys: projections of the hidden states at the last token of the prompts that it may be
trained on, and of a few prefixed forms. It also has hard negatives: keys of other questions about
its subject. A fact is a candidate for a prompt if the prompt mentions its subject, or if the fact
has no subject. Of the candidates, the fact with the nearest key is chosen. It claims the prompt if
that key is nearer than a threshold and nearer than every hard negative.
:mod:`editors.scope.key.calibration` fits the projection, the other questions and the threshold.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import chain, islice
from math import inf
from typing import ClassVar

import torch

from editors.facts import Fact
from editors.inference.decisions import Decision, Proposal
from editors.inference.hidden_states import StateRequest, all_token_states, last_token_states
from editors.model.base_model import Base
from editors.model.tokenization import Ids, encode_prompts
from editors.scope.base import (
    AsksBaseOnly,
    FactKeys,
    Tensors,
    Wording,
    cosine_of_prompts,
    explain_score,
)
from editors.scope.key.calibration import Calibration, calibrate, depends_on
from editors.scope.mention_router import MentionRouter
from editors.scope.unrelated_prompts import UnrelatedPrefixes, prefixed

PREFIXED = 2  # forms of a fact with an unrelated prefix
HARD_NEGATIVES = 20  # of a fact, before those that ask the same question are left out

_SENTENCE_END = re.compile(r"[.!?:;](?=\s)|\n")


class KeySignal(AsksBaseOnly):
    """Decides by keys made of the hidden states of the base."""

    name: ClassVar[str] = "key"
    learns_from: ClassVar[tuple[str, ...]] = ("groups",)
    calibrate = staticmethod(calibrate)
    depends_on = staticmethod(depends_on)
    explain = staticmethod(explain_score)
    similarity = staticmethod(cosine_of_prompts)

    def __init__(self, base: Base, calibration: Tensors, prefixes: UnrelatedPrefixes) -> None:
        self.base, self.prefixes = base, prefixes
        self.calibration = Calibration(calibration)

    def learn(self, facts: Sequence[Fact]) -> KeyLearning:
        """Read the forms of the facts now, as the choice of their hard negatives depends on it."""
        return KeyLearning(self, facts)

    def wordings(self, fact: Fact, keys: FactKeys) -> Sequence[Wording]:
        """None: states do not tell which question a prompt asks."""
        return ()

    def same_question(self, first: FactKeys, second: FactKeys) -> bool:
        """False, for the same reason."""
        return False

    def router(
        self, facts: Sequence[Fact], keys: Sequence[FactKeys], memories: Sequence[int]
    ) -> KeyRouter:
        return KeyRouter(self, facts, keys, memories)


class KeyLearning:
    """Facts whose forms have been read, and whose hard negatives are chosen but not read yet."""

    def __init__(self, signal: KeySignal, facts: Sequence[Fact]) -> None:
        self._base, prefixes = signal.base, signal.prefixes.all
        self._calibration = calibration = signal.calibration
        forms = [[*f.trained_prompts(), *prefixed(f, prefixes, PREFIXED)] for f in facts]
        positives = self._keys(*self._request(forms))
        self.own_keys = {
            fact.id: {"keys": keys} for fact, keys in zip(facts, positives, strict=True)
        }
        negatives = [
            calibration.hard_negatives(keys, fact.subject, HARD_NEGATIVES) if fact.subject else []
            for fact, keys in zip(facts, positives, strict=True)
        ]
        self.request, self._counts = self._request(negatives)

    def keys(self) -> dict[str, FactKeys]:
        """By fact id: ``keys`` and ``negatives``, each float32 ``[n, rank]``, of length 1."""
        negatives = self._keys(self.request, self._counts)
        same = self._calibration.same
        keys_by_fact: dict[str, FactKeys] = {}
        for (fact, positives), candidates in zip(self.own_keys.items(), negatives, strict=True):
            # A candidate as near as another phrasing would be asks the same question.
            asks_else = (candidates @ positives["keys"].T).amax(1) < same
            keys_by_fact[fact] = {"keys": positives["keys"], "negatives": candidates[asks_else]}
        return keys_by_fact

    def _request(self, text_lists: Sequence[Sequence[str]]) -> tuple[StateRequest, list[int]]:
        """A request for the texts that fit the model, and the number of them in each list."""
        base, calibration = self._base, self._calibration
        context = base.architecture.context or inf
        encoded = encode_prompts(base.tokenizer, [*chain(*text_lists)])
        fitting = [ids for ids in encoded if len(ids) <= context]
        fits = iter(len(ids) <= context for ids in encoded)
        request = StateRequest(base, fitting, calibration.layers, calibration.keys)
        return request, [sum(islice(fits, len(texts))) for texts in text_lists]

    def _keys(self, request: StateRequest, counts: Sequence[int]) -> list[torch.Tensor]:
        """For each list of texts, their keys, float32 ``[n, rank]``."""
        keys = request.states() if any(counts) else self._calibration.projection[:0]
        return [of_list.clone() for of_list in torch.split(keys, list(counts))]


class KeyRouter(MentionRouter):
    """Takes decisions by the keys of facts."""

    def __init__(
        self,
        signal: KeySignal,
        facts: Sequence[Fact],
        keys: Sequence[FactKeys],
        memories: Sequence[int],
    ) -> None:
        """The arguments are those of :class:`~editors.scope.mention_router.MentionRouter`."""
        calibration = signal.calibration
        thresholds = [calibration.named if fact.subject else calibration.unnamed for fact in facts]
        super().__init__(signal.base, facts, keys, memories, thresholds)
        self._calibration, self.reads = calibration, calibration.layers

    def _texts(self, prompts: Sequence[Ids]) -> list[str]:
        texts: list[str] = self._base.tokenizer.batch_decode(
            [list(prompt) for prompt in prompts], skip_special_tokens=True
        )
        return texts

    def decide(self, proposal: Proposal, states: torch.Tensor | None) -> list[Decision]:
        if states is None:
            open_prompts = [proposal.prompts[i] for i in proposal.candidates]
            states = last_token_states(self._base, open_prompts, self.reads, shared=True)
        decisions = list(proposal.decisions)
        queries = self._calibration.keys(states)
        for (i, candidates), query in zip(proposal.candidates.items(), queries, strict=True):
            decisions[i] = self._decide(query, candidates)
        return decisions

    def speaks_of(self, prompt: Ids, fact: str) -> bool:
        """Whether ``prompt`` has a passage about ``fact`` (an id), the fact that it asks for.

        It has one if a prefix of the prompt asks for the fact too. The prefix has to end after the
        first mention of the subject, and before the sentence with the last mention, which is the
        question. For example, "The capital of France is" is a prefix of "The capital of France is
        Lyon. What is the capital of France?". For a fact without a subject, the result is False.
        """
        number = self._number_of(fact)
        passage = self._passage(prompt, number)
        if passage is None:
            return False
        states = all_token_states(self._base, prompt, self.reads)  # [tokens, layers, hidden]
        keys = self._keys[number]["keys"]
        return any(
            _nearest(keys, query) > self._required(query, number)
            for query in self._calibration.keys(states[passage])
        )

    def _passage(self, prompt: Ids, fact: int) -> slice | None:
        """The tokens from the end of the first mention of ``fact`` to the question; None without
        two mentions."""

        def decoded(tokens: int) -> str:
            ids = list(prompt[:tokens])
            text: str = self._base.tokenizer.decode(ids, skip_special_tokens=True)
            return text

        text = decoded(len(prompt))
        mentions = [mention for mention in self._mentions.find(text) if mention.fact == fact]
        if len(mentions) < 2:
            return None
        ends = list(_SENTENCE_END.finditer(text, 0, mentions[-1].start))
        question = ends[-1].end() if ends else 0
        counts = range(len(prompt) + 1)
        # Token number n is the last token of a prefix of n + 1 tokens.
        first_token = bisect_left(counts, mentions[0].end, key=lambda n: len(decoded(n))) - 1
        last_token = bisect_right(counts, question, key=lambda n: len(decoded(n))) - 1
        return slice(first_token, last_token)

    def _decide(self, query: torch.Tensor, candidates: Sequence[int]) -> Decision:
        scores = [(_nearest(self._keys[fact]["keys"], query), fact) for fact in candidates]
        # Thresholds differ: a candidate below its own must not win against one above its own.
        near_enough = [(score, fact) for score, fact in scores if score > self._thresholds[fact]]
        score, fact = max(near_enough or scores)
        threshold = self._required(query, fact)
        memory = self._memories[fact] if score > threshold else -1
        return Decision(memory, self._facts[fact].id, score, threshold)

    def _required(self, query: torch.Tensor, fact: int) -> float:
        """The score that ``fact`` must exceed to claim a prompt."""
        return max(self._thresholds[fact], _nearest(self._keys[fact]["negatives"], query))


def _nearest(keys: torch.Tensor, query: torch.Tensor) -> float:
    """The cosine of ``query`` ``[rank]`` with the nearest of ``keys`` ``[n, rank]``; -1 without
    keys."""
    return float((keys @ query).max()) if len(keys) else -1.0
