"""Answers that are followed while the model gives them, each to a request of its own.

Requests are answered together by one ``generate`` of the model, and each as if it were alone: it
has a length, texts that stop it, and a way of choosing tokens of its own. Without sampling, an
answer is that of :func:`~editors.inference.generation.answers`. The rows of a batch are followed
by a stopping criterion rather than a streamer of transformers, as only a criterion can end a row.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from editors.inference.batching import batches
from editors.inference.decisions import Decision
from editors.inference.edited_model import EditedModel
from editors.inference.generation import Choose, decode, padded_budget, stop_ids, text_of
from editors.model.base_model import Base
from editors.model.tokenization import Ids, Prompt, Row

End = Literal["stop", "length", "unwanted"]
"""Why an answer ended: by itself or at a text that stops it, at its longest length, or because
nobody wants more of it."""

PADS = 512  # in a batch; they take less time than a second batch, whose answers may be long

UNFINISHED = "\ufffd"  # what a tokenizer makes of the first bytes of a character


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the tokens of an answer are drawn, each by its probability.

    ``temperature``: above 0, what logits are divided by. ``top_p``: from 0 to 1; only the likeliest
    tokens are drawn that together have this probability. ``seed``: one or more whole numbers, at
    least 0; equal seeds give equal answers, whatever is answered beside. None: drawn anew.
    """

    temperature: float
    top_p: float = 1.0
    seed: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to be answered, and how.

    ``ids``: the prompt as the model is to see it. ``max_new_tokens``: the length of the longest
    answer. ``stops``: texts that end the answer, which does not include them. ``sampling``: None
    chooses the likeliest tokens. ``decision``: that of the rewriter, if there is one.
    """

    ids: Ids
    max_new_tokens: int
    stops: tuple[str, ...] = ()
    sampling: Sampling | None = None
    decision: Decision | None = None

    @staticmethod
    def of(
        model: EditedModel,
        prompt: Prompt,
        max_new_tokens: int,
        stops: tuple[str, ...] = (),
        sampling: Sampling | None = None,
    ) -> Request:
        """The request for an answer of ``model`` to ``prompt``, of at most ``max_new_tokens``
        tokens, fewer if the context has less room.

        Raises:
            PromptTooLong: the prompt leaves no room for an answer.
            EditorError: the prompt cannot be encoded.
        """
        [(ids, decision)] = model.admitted([prompt], room=1)
        room = (model.base.architecture.context or sys.maxsize) - len(ids)
        return Request(ids, min(max_new_tokens, room), stops, sampling, decision)


@dataclass(frozen=True, slots=True)
class LiveAnswer:
    """The ``text`` of an answer, without white space at both ends, why it ended, and how many
    ``tokens`` the model chose, one that ends a text included."""

    text: str
    end: End
    tokens: int


class Follower(Protocol):
    """Follows one answer, in the thread that runs the model. Each call should return at once.

    ``wants_pieces``: whether :meth:`said` is called.
    """

    @property
    def wants_pieces(self) -> bool: ...

    def decided(self, decision: Decision | None) -> None:
        """The decision on the prompt, before anything is said; None without a router or
        rewriter."""

    def said(self, piece: str) -> None:
        """The next piece of the text. All pieces together are the text of the answer."""

    def wants_more(self) -> bool:
        """Whether the answer is to go on; asked at every token."""

    def ended(self, answer: LiveAnswer) -> None:
        """The whole answer. Other answers of the batch may go on."""


def answered_with_first(base: Base, requests: Sequence[Request], rows: int) -> list[int]:
    """The numbers of those of ``requests`` that are answered in one batch with the first, at most
    ``rows``."""
    groups = batches([len(request.ids) for request in requests], padded_budget(base, rows, PADS))
    return next(group for group in groups if 0 in group)


def answer_live(
    model: EditedModel, requests: Sequence[Request], followers: Sequence[Follower]
) -> None:
    """Answer ``requests`` in one batch, padded on the left. Each has its follower."""
    base = model.base
    rows = [_Row(base, *pair) for pair in zip(requests, followers, strict=True)]
    batch = base.batch([Row.of_prompt(request.ids) for request in requests], side="left")
    decided = False

    def ends(ids: torch.Tensor, scores: object, **kwargs: Any) -> torch.Tensor:
        """bool ``[rows]``: whether each row has ended. ``ids``: int64 ``[rows, seq]``."""
        nonlocal decided
        if not decided:
            decided = True
            decisions: Sequence[Decision | None] = model.decisions(calls) or [None] * len(rows)
            for row, decision in zip(rows, decisions, strict=True):
                row.decide(decision)
        for row, token in zip(rows, ids[:, -1].tolist(), strict=True):
            row.take(token)
        return torch.tensor([row.has_ended for row in rows], device=ids.device)

    longest = max(request.max_new_tokens for request in requests)
    with model.noting() as calls:
        decode(base, batch.ids, longest, batch.mask, _drawing(rows), ends=ends)


class _Row:
    """An answer as far as it has got."""

    def __init__(self, base: Base, request: Request, follower: Follower) -> None:
        self.has_ended = False
        self.sampler = _Sampler(request.sampling) if request.sampling else None
        self._base, self._request, self._follower = base, request, follower
        self._end_ids = stop_ids(base)
        self._ids: list[int] = []
        self._text_before = ""  # one token ago
        self._said = 0  # characters

    def decide(self, decision: Decision | None) -> None:
        self._follower.decided(self._request.decision or decision)

    def take(self, token: int) -> None:
        """Go on with ``token``; does nothing after the end."""
        if self.has_ended:
            return
        self._ids.append(token)
        end: End | None = None
        if token in self._end_ids:
            end = "stop"
        elif len(self._ids) == self._request.max_new_tokens:
            end = "length"
        elif not self._follower.wants_more():
            end = "unwanted"
        if not (end or self._request.stops or self._follower.wants_pieces):
            return
        text = text_of(self._base, self._ids[:-1] if token in self._end_ids else self._ids)
        stopped_at = _first_of(self._request.stops, text)
        if stopped_at is not None:
            text, end = text[:stopped_at], "stop"
        if end:
            self._say(text.strip())
            self.has_ended = True
            self._follower.ended(LiveAnswer(text.strip(), end, len(self._ids)))
        else:
            self._say(self._settled(text))
            self._text_before = text

    def _settled(self, text: str) -> str:
        """The beginning of the answer that later tokens cannot change, of the ``text`` so far.

        A token may complete a character, or change the white space before it. So only what was
        there one token ago counts. What may be the beginning of a stop is held back.
        """
        settled = _common_start(self._text_before, text).rstrip(UNFINISHED)
        settled = settled[: len(settled) - _begun(self._request.stops, settled)]
        return settled.strip()

    def _say(self, text: str) -> None:
        """Hand on what is new in ``text``."""
        if self._follower.wants_pieces and len(text) > self._said:
            self._follower.said(text[self._said :])
            self._said = len(text)


def _common_start(before: str, text: str) -> str:
    """What both texts begin with."""
    if text.startswith(before):
        return before
    pairs = enumerate(zip(before, text, strict=False))
    return before[: next((at for at, (old, new) in pairs if old != new), len(text))]


def _first_of(stops: Sequence[str], text: str) -> int | None:
    """Where the first of ``stops`` in ``text`` begins; None if there is none."""
    return min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)


def _begun(stops: Sequence[str], text: str) -> int:
    """The number of characters at the end of ``text`` that may be the beginning of a stop."""
    return max(
        (size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])),
        default=0,
    )


class _Sampler:
    """Draws the tokens of one row with a generator of its own."""

    def __init__(self, sampling: Sampling) -> None:
        self._warpers = (
            TemperatureLogitsWarper(float(sampling.temperature)),
            TopPLogitsWarper(float(sampling.top_p)),
        )
        # On the CPU, so that a seed draws the same tokens wherever the model is.
        self._generator = torch.Generator()
        state = np.random.SeedSequence(sampling.seed).generate_state(1, np.uint64)
        self._generator.manual_seed(int(state[0]) % 2**63)

    def __call__(self, ids: torch.Tensor, logits: torch.Tensor) -> int:
        """A token. ``ids``: int64 ``[1, seq]``; ``logits``: ``[1, vocab]``."""
        for warp in self._warpers:
            logits = warp(ids, logits)
        probabilities = logits.float().softmax(-1).cpu()
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


def _drawing(rows: Sequence[_Row]) -> Choose | None:
    """What makes the drawn token of each row that samples the likeliest one; None if none does."""
    if not any(row.sampler for row in rows):
        return None

    def choose(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        chosen = logits.clone()
        for number, row in enumerate(rows):
            if row.sampler is not None and not row.has_ended:
                token = row.sampler(ids[number, None], logits[number, None])
                chosen[number] = -torch.inf
                chosen[number, token] = 0
        return chosen

    return choose
