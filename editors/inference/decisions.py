"""Which edit answers a prompt: decisions, and the contract of a router, which takes them.

A decision is taken once for each prompt, from prompt tokens only. It holds while the answer is
decoded (see :mod:`editors.inference.calls`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from editors.model.tokenization import Ids


@dataclass(frozen=True, slots=True)
class Decision:
    """Which edit answers a prompt, and why.

    ``memory``: the number of the method's memory that answers, -1 for the base alone. ``fact``: the
    id of the fact that claims the prompt, or of the nearest candidate; None if there is none, or if
    memories have no single fact. ``score`` and ``threshold``: the score of that fact and the score
    that a claim needs; without a candidate, 0 and infinity. ``yielded``: an edit would have
    answered, but the prompt has a passage about its fact.
    """

    memory: int
    fact: str | None = None
    score: float = 0.0
    threshold: float = float("inf")
    yielded: bool = False

    @property
    def opened(self) -> bool:
        """Whether an edit answers the prompt."""
        return self.memory >= 0


UNCLAIMED = Decision(-1)


@dataclass(frozen=True, slots=True)
class Proposal:
    """The decisions that are possible before the base has read the prompts.

    ``prompts``: the token ids of each prompt. ``decisions``: one for each prompt, final unless the
    prompt is in ``candidates``, which maps the number of a prompt that is still open to the numbers
    of the facts that may claim it.
    """

    prompts: Sequence[Ids]
    decisions: list[Decision]
    candidates: Mapping[int, Sequence[int]] = field(default_factory=dict)


class Router(Protocol):
    """Takes decisions on prompts, which are the token ids that the model will see."""

    @property
    def reads(self) -> tuple[int, ...]:
        """The blocks whose output at the last prompt token is needed, in ascending order.

        They are read in the answering forward if possible. Empty for a router that decides by
        something else: forwards over other text, which it runs itself, or another model.
        """

    def propose(self, prompts: Sequence[Ids]) -> Proposal:
        """The decisions that are possible before the base has read the prompts."""

    def decide(self, proposal: Proposal, states: torch.Tensor | None) -> list[Decision]:
        """The final decision on each prompt of ``proposal``.

        ``states``: float32 ``[candidates, blocks, hidden]``, for each prompt in ``candidates`` the
        outputs of the blocks in :attr:`reads`. None if the answering forward could not be read;
        then the router runs forwards itself. The caller is inside ``base.probing()``.
        """


def decided(router: Router, prompts: Sequence[Ids]) -> list[Decision]:
    """The final decision on each of ``prompts``, by forwards of the router's own where needed. The
    caller is inside ``base.probing()``."""
    proposal = router.propose(prompts)
    return router.decide(proposal, None) if proposal.candidates else proposal.decisions


class ImmediateRouter:
    """What routers have in common that decide every prompt when they propose."""

    reads: tuple[int, ...] = ()

    def decide(self, proposal: Proposal, states: torch.Tensor | None) -> list[Decision]:
        return proposal.decisions


class NoClaims(ImmediateRouter):
    """A router without facts: no prompt is claimed."""

    def propose(self, prompts: Sequence[Ids]) -> Proposal:
        return Proposal(prompts, [UNCLAIMED] * len(prompts))
