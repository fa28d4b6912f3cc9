"""Scope: which prompts an edited fact claims. The contract that every signal keeps.

A *scope signal* learns what it needs of each fact when the fact is edited in, and decides which
fact claims a prompt. It may read the forward that answers, run forwards of its own on other text,
or ask another model altogether.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch

from editors.facts import Fact
from editors.inference.decisions import Decision, Router
from editors.inference.hidden_states import StateRequest
from editors.model.base_model import Base
from editors.model.tokenization import Ids

if TYPE_CHECKING:
    from editors.scope.phrasings import Phrasings
    from editors.scope.unrelated_prompts import UnrelatedPrefixes

Tensors = Mapping[str, torch.Tensor]

FactKeys = Tensors
"""What a signal knows of one fact, as named tensors; the first axis of each counts keys."""


class Learning(Protocol):
    """Facts that a signal is about to know.

    ``own``: by fact id, what the facts' own forms gave at once. ``request``: states that are still
    wanted, which another forward may take along; None where none are.
    """

    @property
    def own(self) -> Mapping[str, FactKeys]: ...

    @property
    def request(self) -> StateRequest | None: ...

    def keys(self) -> dict[str, FactKeys]:
        """By fact id, all that the signal is to know; reads the states that are still wanted."""
        ...


class ClaimRouter(Router, Protocol):
    """A router whose decisions name facts."""

    def speaks_of(self, prompt: Ids, fact: str) -> bool:
        """Whether a passage in ``prompt`` speaks of the very fact (an id) that the prompt asks
        for."""
        ...


class ScopeSignal(Protocol):
    """Tells which prompts the facts of one store claim."""

    name: ClassVar[str]

    def __init__(self, base: Base, calibration: Tensors, prefixes: UnrelatedPrefixes) -> None:
        """``calibration``: what :meth:`calibrate` gave for this base."""
        ...

    @classmethod
    def calibrate(
        cls,
        base: Base,
        phrasings: Sequence[Phrasings],
        prefixes: UnrelatedPrefixes,
        settings: Mapping[str, float],
    ) -> Tensors:
        """What the signal has to know of the base, once for a store; may be nothing."""
        ...

    def learn(self, facts: Sequence[Fact]) -> Learning:
        """Begin to learn ``facts``."""
        ...

    def similarity(self, own: FactKeys, other: FactKeys) -> float:
        """How alike the base takes two facts to be, from -1 to 1; alike facts interfere."""
        ...

    def router(
        self, facts: Sequence[Fact], keys: Sequence[FactKeys], memories: Sequence[int]
    ) -> ClaimRouter:
        """A router over ``facts``. ``memories[i]`` answers what fact ``i`` claims; it is -1 where
        the fact is closed, so that the base answers."""
        ...

    def explain(self, decision: Decision) -> str:
        """What a decision was taken on, in a few words."""
        ...


def explain_score(decision: Decision) -> str:
    """Score against threshold, as most signals decide."""
    return f"score {decision.score:.3f}, threshold {decision.threshold:.3f}"
