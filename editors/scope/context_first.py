"""A router that lets an edit yield to a passage, for versions that prefer the context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from editors.inference.decisions import Decision, Proposal
from editors.model.tokenization import Ids
from editors.scope.base import ClaimRouter


class ContextFirstRouter:
    """Lets the base answer a prompt with a passage about the fact that the prompt asks for. On all
    other prompts, the decision is that of another router."""

    reads: tuple[int, ...] = ()  # the end of a prompt does not show the passage before it

    def __init__(self, router: ClaimRouter) -> None:
        self._router = router

    def propose(self, prompts: Sequence[Ids]) -> Proposal:
        proposal = self._router.propose(prompts)
        decisions = proposal.decisions
        if proposal.candidates:
            decisions = self._router.decide(proposal, None)
        return Proposal(prompts, [*map(self._yielding, prompts, decisions)])

    def decide(self, proposal: Proposal, states: torch.Tensor | None) -> list[Decision]:
        return proposal.decisions

    def speaks_of(self, prompt: Ids, fact: str) -> bool:
        return self._router.speaks_of(prompt, fact)

    def _yielding(self, prompt: Ids, decision: Decision) -> Decision:
        claimed = decision.fact if decision.opened else None
        if claimed is not None and self._router.speaks_of(prompt, claimed):
            return replace(decision, memory=-1, yielded=True)
        return decision
