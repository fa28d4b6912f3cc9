"""Scope: which prompts an edited fact claims. The contract of a scope signal.

A *scope signal* learns the keys of each fact when the fact is edited in. Its router decides which
fact claims a prompt. It may read the answering forward, run forwards over other text, or ask
another model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from editors.facts import Fact
from editors.inference.decisions import Decision, Router
from editors.inference.hidden_states import StateRequest
from editors.model.base_model import Base
from editors.model.tokenization import Ids
from editors.scope.corpus import Corpus, Form
from editors.scope.unrelated_prompts import UnrelatedPrefixes

Tensors = Mapping[str, torch.Tensor]

Settings = Mapping[str, float | str]
"""See :class:`editors.scope.settings.ScopeSettings`."""

Wording = tuple[Form, str]
"""A prompt, and whether it is a statement, a question, or another form."""

FactKeys = Tensors
"""What a signal knows about one fact, as named tensors. The first axis of each counts keys."""


class ByteCache(Protocol):
    """Stores bytes under keys, which are lower-case hexadecimal digits. ``get`` returns None for an
    unknown key. ``made_from``: the facts (ids) that the bytes were made from; None: not known."""

    def get(self, key: str) -> bytes | None: ...

    def put(self, key: str, payload: bytes, made_from: Collection[str] | None = None) -> None: ...


class Learning(Protocol):
    """Facts that a signal is learning.

    ``own_keys``: by fact id, the keys of the fact's own forms, which are known immediately.
    ``request``: states that are still needed, which may be read in a forward of somebody else; None
    if no states are needed.
    """

    @property
    def own_keys(self) -> Mapping[str, FactKeys]: ...

    @property
    def request(self) -> StateRequest | None: ...

    def keys(self) -> dict[str, FactKeys]:
        """By fact id, all keys; runs the base if the states of ``request`` are not known yet."""


class ClaimRouter(Router, Protocol):
    """A router whose decisions name facts."""

    def speaks_of(self, prompt: Ids, fact: str) -> bool:
        """Whether ``prompt`` has a passage about ``fact`` (an id), the fact that it asks for."""


class ScopeSignal(Protocol):
    """Decides which prompts the facts of one store claim."""

    name: ClassVar[str]
    learns_from: ClassVar[tuple[str, ...]]
    """The fields of the corpus that the calibration depends on."""
    needs_base: ClassVar[bool]
    """Whether decisions need the weights of the base; otherwise its tokenizer is enough."""

    @classmethod
    def depends_on(cls, base: Base, settings: Settings) -> list[Any]:
        """What the calibration depends on besides the corpus, as plain JSON."""

    def __init__(self, base: Base, calibration: Tensors, prefixes: UnrelatedPrefixes) -> None:
        """``calibration``: the result of :meth:`calibrate` for this base."""

    @classmethod
    def calibrate(
        cls,
        base: Base,
        corpus: Corpus,
        prefixes: UnrelatedPrefixes,
        settings: Settings,
    ) -> Tensors:
        """What the signal has to know about the base, computed once for a store; may be empty.

        ``corpus``: what to learn from. Raises the errors of the signal.
        """

    def learn(self, facts: Sequence[Fact]) -> Learning:
        """Start learning ``facts``."""

    def similarity(self, first: FactKeys, second: FactKeys) -> float:
        """How similar two facts are to the base, from -1 to 1. Similar facts interfere."""

    def router(
        self, facts: Sequence[Fact], keys: Sequence[FactKeys], memories: Sequence[int]
    ) -> ClaimRouter:
        """A router over ``facts``, which have these ``keys``.

        ``memories[i]``: the number of the memory that answers the prompts that fact ``i`` claims;
        -1 if the fact is closed, so that the base answers.
        """

    def wordings(self, fact: Fact, keys: FactKeys) -> Sequence[Wording]:
        """Prompts that ask what ``fact`` says in other words, as far as the signal recognises its
        question; maybe none."""

    def same_question(self, first: FactKeys, second: FactKeys) -> bool:
        """Whether the prompts of two facts about one subject ask the same, as far as the signal can
        tell."""

    def explain(self, decision: Decision, keys: FactKeys) -> str:
        """The reason for ``decision``, in a few words. ``keys``: those of the fact that claims."""

    @classmethod
    def other_model(cls, calibration: Tensors) -> Path | None:
        """The folder of the model that the signal asks besides the base; None if there is none."""

    @classmethod
    def with_other_model(cls, calibration: Tensors, folder: Path) -> Tensors:
        """``calibration`` for the same other model in ``folder``."""


class AsksBaseOnly:
    """What signals have in common that ask no model but the base."""

    needs_base: ClassVar[bool] = True

    @classmethod
    def other_model(cls, calibration: Tensors) -> Path | None:
        return None

    @classmethod
    def with_other_model(cls, calibration: Tensors, folder: Path) -> Tensors:
        return calibration


def explain_score(decision: Decision, keys: FactKeys | None = None) -> str:
    """The score and threshold of ``decision``, in words."""
    return f"score {decision.score:.3f}, threshold {decision.threshold:.3f}"


def cosine_of_prompts(first: FactKeys, second: FactKeys) -> float:
    """The cosine of the keys of the prompts of two facts: ``keys``, each of length 1, the prompt's
    first."""
    return float(first["keys"][0].float() @ second["keys"][0].float())
