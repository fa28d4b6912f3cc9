"""The signal ``key``: scope is decided by what the unedited base makes of the last prompt token.

A fact owns keys: projections of the base's states at the last token of its prompt, of its variants
and of a few prefixed forms. It also has hard negatives: keys of other questions about its subject.
A prompt is a candidate for a fact if it names the fact's subject, or if the fact has none. Among
the candidates the nearest key names the fact. The fact claims the prompt if that key is near enough
and no hard negative is nearer. :mod:`editors.scope.calibration` says how states become keys, which
other questions there are, and how near is near enough.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import islice
from math import inf
from typing import ClassVar

import torch

from editors.facts import Fact
from editors.inference.decisions import UNCLAIMED, Decision, Proposal
from editors.inference.hidden_states import StateRequest, all_token_states, last_token_states
from editors.model.base_model import Base
from editors.model.tokenization import Ids, encode_prompts
from editors.scope.base import FactKeys, Tensors, explain_score
from editors.scope.calibration import Calibration, CalibrationSettings, calibrate
from editors.scope.phrasings import Phrasings
from editors.scope.subjects import Subjects
from editors.scope.unrelated_prompts import UnrelatedPrefixes, prefixed
from editors.text_matching import whole_word_pattern

PREFIXED = 2  # keys of a fact behind an unrelated beginning
HARD_NEGATIVES = 20  # of a fact, before those that ask the same are left out

_SENTENCE_END = re.compile(r"[.!?:;](?=\s)|\n")


class KeySignal:
    """Scope by keys of the base's own states."""

    name: ClassVar[str] = "key"

    def __init__(self, base: Base, calibration: Tensors, prefixes: UnrelatedPrefixes) -> None:
        self._base, self._prefixes = base, prefixes
        self.calibration = Calibration.from_tensors(calibration)

    @classmethod
    def calibrate(
        cls,
        base: Base,
        phrasings: Sequence[Phrasings],
        prefixes: UnrelatedPrefixes,
        settings: Mapping[str, float],
    ) -> Tensors:
        """Fit projection and thresholds; ``settings``: ``rank`` and ``false_open``."""
        wanted = CalibrationSettings(int(settings["rank"]), settings["false_open"])
        return calibrate(base, phrasings, prefixes.all, wanted).tensors()

    def learn(self, facts: Sequence[Fact]) -> KeyLearning:
        """Read the facts' own forms now; what their hard negatives are depends on that."""
        return KeyLearning(self._base, facts, self.calibration, self._prefixes.all)

    def similarity(self, own: FactKeys, other: FactKeys) -> float:
        """The cosine between the keys of the two prompts."""
        return float(own["keys"][0] @ other["keys"][0])

    def router(
        self, facts: Sequence[Fact], keys: Sequence[FactKeys], memories: Sequence[int]
    ) -> KeyRouter:
        return KeyRouter(self._base, self.calibration, facts, keys, memories)

    def explain(self, decision: Decision) -> str:
        return explain_score(decision)


class KeyLearning:
    """Facts whose own forms have been read, and whose hard negatives are chosen and still
    wanted."""

    def __init__(
        self,
        base: Base,
        facts: Sequence[Fact],
        calibration: Calibration,
        prefixes: Sequence[str],
    ) -> None:
        self._base, self._calibration = base, calibration
        forms = [[f.prompt, *f.variants, *prefixed(f, prefixes, PREFIXED)] for f in facts]
        own = self._keys(*self._request(forms))
        self.own = {fact.id: {"keys": keys} for fact, keys in zip(facts, own, strict=True)}
        negatives = [
            []
            if fact.subject is None
            else calibration.hard_negatives(keys, fact.subject, HARD_NEGATIVES)
            for fact, keys in zip(facts, own, strict=True)
        ]
        self.request, self._counts = self._request(negatives)

    def keys(self) -> dict[str, FactKeys]:
        """By fact id: ``keys`` and ``negatives``, float32 ``[n, rank]`` of length 1."""
        negatives = self._keys(self.request, self._counts)
        same = self._calibration.same
        found: dict[str, FactKeys] = {}
        for (fact, own), other in zip(self.own.items(), negatives, strict=True):
            # What is as near as another phrasing would be asks the same thing.
            asks_else = (other @ own["keys"].T).amax(1) < same
            found[fact] = {"keys": own["keys"], "negatives": other[asks_else]}
        return found

    def _request(self, texts: Sequence[Sequence[str]]) -> tuple[StateRequest, list[int]]:
        """For the texts that fit the model, and how many of each list do."""
        base, calibration = self._base, self._calibration
        context = base.architecture.context or inf
        encoded = iter(encode_prompts(base.tokenizer, [text for part in texts for text in part]))
        parts = [
            [ids for ids in islice(encoded, len(part)) if len(ids) <= context] for part in texts
        ]
        prompts = [ids for part in parts for ids in part]
        request = StateRequest(base, prompts, calibration.layers, calibration.keys)
        return request, [len(part) for part in parts]

    def _keys(self, request: StateRequest, counts: Sequence[int]) -> list[torch.Tensor]:
        """For each list of texts its keys, float32 ``[n, rank]``."""
        if not any(counts):
            return [self._calibration.projection.new_zeros(0, self._rank) for _ in counts]
        return [part.clone() for part in torch.split(request.states(), list(counts))]

    @property
    def _rank(self) -> int:
        return self._calibration.projection.shape[1]


class KeyRouter:
    """Routes by the keys of facts."""

    def __init__(
        self,
        base: Base,
        calibration: Calibration,
        facts: Sequence[Fact],
        keys: Sequence[FactKeys],
        memories: Sequence[int],
    ) -> None:
        """``memories[i]``: what answers for fact ``i``, -1 for the base (a closed fact)."""
        self._base, self._calibration = base, calibration
        self._facts, self._keys, self._memories = facts, keys, memories
        self._subjects = Subjects([fact.subject for fact in facts])
        prompts = encode_prompts(base.tokenizer, [fact.prompt for fact in facts])
        self._fact_of_prompt = {ids: i for i, ids in enumerate(prompts)}

    @property
    def reads(self) -> tuple[int, ...]:
        return self._calibration.layers

    def propose(self, prompts: Sequence[Ids]) -> Proposal:
        """Who is named, and whose own prompt it is."""
        decisions, candidates = [UNCLAIMED] * len(prompts), {}
        texts = self._base.tokenizer.batch_decode(
            [list(prompt) for prompt in prompts], skip_special_tokens=True
        )
        for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            own = self._fact_of_prompt.get(prompt)
            if own is not None:
                threshold = self._threshold(own)
                decisions[i] = Decision(self._memories[own], self._facts[own].id, 1.0, threshold)
            elif named := self._subjects.named_in(text):
                candidates[i] = named
        return Proposal(prompts, decisions, candidates)

    def decide(self, proposal: Proposal, states: torch.Tensor | None) -> list[Decision]:
        if states is None:
            open_prompts = [proposal.prompts[i] for i in proposal.open_rows]
            states = last_token_states(self._base, open_prompts, self.reads, shared=True)
        decisions = list(proposal.decisions)
        queries = self._calibration.keys(states)
        for (i, candidates), query in zip(proposal.candidates.items(), queries, strict=True):
            decisions[i] = self._decide(query, candidates)
        return decisions

    def speaks_of(self, prompt: Ids, fact: str) -> bool:
        """Whether a passage in ``prompt`` speaks of the fact (an id) that the prompt asks for.

        So it does where a beginning of the prompt asks for the fact too: one that ends behind the
        first mention of the subject and before the sentence with the last, which is the question.
        "The capital of France is" is a beginning of "The capital of France is Lyon. What is the
        capital of France?". No passage speaks of a fact without a subject.
        """
        asked = next(i for i, known in enumerate(self._facts) if known.id == fact)
        passage = self._passage(prompt, self._facts[asked].subject)
        if passage is None:
            return False
        states = all_token_states(self._base, prompt, self.reads)  # [tokens, layers, hidden]
        queries = self._calibration.keys(states[passage])
        return any(self._claims(query, asked) for query in queries)

    def _passage(self, prompt: Ids, subject: str | None) -> slice | None:
        """The tokens from the end of the first mention of ``subject`` up to the question."""

        def decoded(tokens: int) -> str:
            ids = list(prompt[:tokens])
            text: str = self._base.tokenizer.decode(ids, skip_special_tokens=True)
            return text.casefold()

        def length(tokens: int) -> int:
            return len(decoded(tokens))

        text = decoded(len(prompt))
        pattern = whole_word_pattern(subject.casefold()) if subject else None
        mentions = list(re.finditer(pattern, text)) if pattern else []
        if len(mentions) < 2:
            return None
        ends = list(_SENTENCE_END.finditer(text, 0, mentions[-1].start()))
        question = ends[-1].end() if ends else 0
        counts = range(len(prompt) + 1)
        # Token number n is the last of a beginning of n + 1 tokens.
        first = bisect_left(counts, mentions[0].end(), key=length) - 1
        last = bisect_right(counts, question, key=length) - 1
        return slice(first, last)

    def _decide(self, query: torch.Tensor, candidates: Sequence[int]) -> Decision:
        scores = [(_nearest(self._keys[fact]["keys"], query), fact) for fact in candidates]
        # One that is not near enough itself cannot keep another from being chosen.
        near = [(score, fact) for score, fact in scores if score > self._threshold(fact)]
        score, fact = max(near or scores)
        threshold = self._required(query, fact)
        memory = self._memories[fact] if score > threshold else -1
        return Decision(memory, self._facts[fact].id, score, threshold)

    def _claims(self, query: torch.Tensor, fact: int) -> bool:
        return _nearest(self._keys[fact]["keys"], query) > self._required(query, fact)

    def _required(self, query: torch.Tensor, fact: int) -> float:
        """The score that ``fact`` must exceed to claim a prompt."""
        return max(self._threshold(fact), _nearest(self._keys[fact]["negatives"], query))

    def _threshold(self, fact: int) -> float:
        without = self._facts[fact].subject is None
        return self._calibration.unnamed if without else self._calibration.named


def _nearest(keys: torch.Tensor, query: torch.Tensor) -> float:
    """The cosine of ``query`` ``[rank]`` and the nearest of ``keys`` ``[n, rank]``; -1 of none."""
    return float((keys @ query).max()) if len(keys) else -1.0
