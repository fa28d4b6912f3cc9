"""What routers have in common whose candidates are the facts that a prompt mentions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from editors.facts import Fact
from editors.inference.decisions import UNCLAIMED, Decision, Proposal
from editors.model.base_model import Base
from editors.model.tokenization import Ids, encode_prompts
from editors.scope.base import FactKeys
from editors.scope.fact_names import names_in_tokens
from editors.scope.mentions import Mentions


class MentionRouter(ABC):
    """Decides prompts that are the prompt of a fact. The candidates for all others are the facts
    that they mention, and the facts without a subject."""

    def __init__(
        self,
        base: Base,
        facts: Sequence[Fact],
        keys: Sequence[FactKeys],
        memories: Sequence[int],
        thresholds: Sequence[float],
    ) -> None:
        """``memories[i]``: the number of the memory that answers for fact ``i``, -1 for the base
        (a closed fact); ``thresholds[i]``: the score that a claim of fact ``i`` needs."""
        self._base, self._facts, self._keys = base, facts, keys
        self._memories, self._thresholds = memories, thresholds
        self._mentions = Mentions(names_in_tokens(facts, base.tokenizer))
        prompts = encode_prompts(base.tokenizer, [fact.prompt for fact in facts])
        self._fact_of_prompt = {ids: i for i, ids in enumerate(prompts)}

    @abstractmethod
    def _texts(self, prompts: Sequence[Ids]) -> list[str]:
        """The text of each prompt, in which mentions are looked for."""

    def propose(self, prompts: Sequence[Ids]) -> Proposal:
        """Decide prompts that are the prompt of a fact, and find the candidates for all others."""
        decisions, candidates = [UNCLAIMED] * len(prompts), {}
        for i, (prompt, text) in enumerate(zip(prompts, self._texts(prompts), strict=True)):
            fact = self._fact_of_prompt.get(prompt)
            if fact is not None:
                memory, threshold = self._memories[fact], self._thresholds[fact]
                decisions[i] = Decision(memory, self._facts[fact].id, 1.0, threshold)
            elif named := self._mentions.named_in(text):
                candidates[i] = named
        return Proposal(prompts, decisions, candidates)

    def _number_of(self, fact: str) -> int:
        """The number of the fact with the id ``fact``."""
        return next(i for i, candidate in enumerate(self._facts) if candidate.id == fact)
