"""A router that lets an edit yield to a passage, for versions that prefer the context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from editors.inference.decisions import ImmediateRouter, Proposal, decided
from editors.model.tokenization import Ids
from editors.scope.base import ClaimRouter


class ContextFirstRouter(ImmediateRouter):
    """Lets the base answer a prompt with a passage about the fact that the prompt asks for. On all
    other prompts, the decision is that of another router.

    It reads no states, as the end of a prompt does not show the passage before it.
    """

    def __init__(self, router: ClaimRouter) -> None:
        self._router = router

    def propose(self, prompts: Sequence[Ids]) -> Proposal:
        decisions = decided(self._router, prompts)
        for i, (prompt, decision) in enumerate(zip(prompts, decisions, strict=True)):
            claimed = decision.fact if decision.opened else None
            if claimed is not None and self._router.speaks_of(prompt, claimed):
                decisions[i] = replace(decision, memory=-1, yielded=True)
        return Proposal(prompts, decisions)
