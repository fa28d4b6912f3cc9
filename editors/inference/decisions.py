"""Which edit answers a prompt: what is decided, and the contract of whoever decides.

A decision is taken once for each prompt, from prompt tokens only, and is held while the answer is
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
    """Where a prompt goes.

    ``memory``: which of the method's memories answers, -1 for the base alone. ``fact``: the id of
    the fact that claims the prompt, or of the nearest candidate. ``score`` against ``threshold`` is
    what was decided on; without any candidate the score is 0 and the threshold infinite.
    ``yielded``: an edit would have answered, but a passage in the prompt speaks of its fact.
    """

    memory: int
    fact: str | None = None
    score: float = 0.0
    threshold: float = float("inf")
    yielded: bool = False

    @property
    def opened(self) -> bool:
        """An edit answers the prompt."""
        return self.memory >= 0


UNCLAIMED = Decision(-1)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What can be said of prompts before the base has read them.

    ``prompts``: those that are decided on. ``decisions``: one for each, final except for those in
    ``candidates``, which maps the number of a prompt to the facts that may claim it.
    """

    prompts: Sequence[Ids]
    decisions: list[Decision]
    candidates: Mapping[int, Sequence[int]] = field(default_factory=dict)

    @property
    def open_rows(self) -> list[int]:
        """The numbers of the prompts that are not decided yet."""
        return list(self.candidates)


class Router(Protocol):
    """Decides for prompts, given as the token ids that the model will see."""

    @property
    def reads(self) -> tuple[int, ...]:
        """The blocks whose output at the last prompt token it wants, in rising order.

        They are read in the forward that answers, where that is possible. Empty for a router that
        looks elsewhere: at other text, which it runs itself, or at another model.
        """
        ...

    def propose(self, prompts: Sequence[Ids]) -> Proposal:
        """What can be said before the base has read the prompts."""
        ...

    def decide(self, proposal: Proposal, states: torch.Tensor | None) -> list[Decision]:
        """One decision for each prompt.

        ``states``: float32 ``[open rows, blocks, hidden]`` of the blocks in :attr:`reads`, or None
        where the answering forward could not be read; then forwards of its own are due. The caller
        holds ``base.probing()``.
        """
        ...


class NoClaims:
    """A router for a method without edits: nothing is claimed."""

    reads: tuple[int, ...] = ()

    def propose(self, prompts: Sequence[Ids]) -> Proposal:
        return Proposal(prompts, [UNCLAIMED] * len(prompts))

    def decide(self, proposal: Proposal, states: torch.Tensor | None) -> list[Decision]:
        return proposal.decisions
