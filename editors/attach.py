"""Attaching a side memory to its base: the model's own class goes on working, routed per row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from editors.base import Base
from editors.errors import EditorError
from editors.hooks import reading_inputs, swapped
from editors.look import Ids
from editors.pruning import NOTHING_PRUNED, Attachment, HeadMask
from editors.routing import Decision, Router
from editors.side_memory import Memory, SideMemoryLinear

Listener = Callable[[Sequence[Ids], Sequence[Decision]], None]


class Attached:
    """What is attached to a base: the decisions of the last prompts, and how scoring is routed."""

    def __init__(self, side: SideMemoryLinear, router: Router, pruned: Attachment) -> None:
        self.decisions: list[Decision] = []
        self._side, self._router, self._pruned = side, router, pruned
        self._prompt_lengths: torch.Tensor | None = None
        self._listener: Listener | None = None
        self._held = False

    @contextmanager
    def noting(self, listener: Listener) -> Iterator[None]:
        """Tell ``listener`` the prompts and decisions of every prefill inside ``with``."""
        self._listener = listener
        try:
            yield
        finally:
            self._listener = None

    @contextmanager
    def recording(self) -> Iterator[Mapping[Ids, Decision]]:
        """What was decided of each prompt that is prefilled inside ``with``, by its tokens."""
        found: dict[Ids, Decision] = {}

        def note(prompts: Sequence[Ids], decisions: Sequence[Decision]) -> None:
            found.update(zip(prompts, decisions, strict=True))

        with self.noting(note):
            yield found

    @contextmanager
    def scoring(self, prompt_lengths: torch.Tensor) -> Iterator[None]:
        """Route by the first ``prompt_lengths`` ``[batch]`` real tokens of each row only.

        Without it a forward over a prompt and its target would let the target open the gate.
        """
        self._prompt_lengths = prompt_lengths
        try:
            with self._pruned.scoring(prompt_lengths):
                yield
        finally:
            self._prompt_lengths = None

    def reading_on(self, prompt_lengths: torch.Tensor) -> AbstractContextManager[None]:
        """Heads pruned from the end of prompts on are pruned after so many tokens of each row.

        Routing still reads whole rows: for texts that nobody answers, scored at every token.
        """
        return self._pruned.scoring(prompt_lengths)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Route as at the last prefill: forwards inside ``with`` take its rows, or repeat them."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def _before_forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Decide at prefill, before the model runs; hold the decision while it decodes."""
        past = kwargs.get("past_key_values")
        if past is not None and int(past.get_seq_length()) > 0:
            return
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise EditorError("routing reads the prompt's tokens, but only embeddings were given")
        if self._held:
            routes = torch.tensor([d.shard for d in self.decisions])
            self._side.routes = routes.repeat(len(ids) // len(routes))
            return
        mask = kwargs.get("attention_mask")
        real = torch.ones_like(ids) if mask is None or mask.ndim != 2 else mask
        if self._prompt_lengths is not None:
            lengths = self._prompt_lengths.to(real.device)
            real = real * (real.cumsum(1) <= lengths[:, None])
        prompts = [tuple(row[keep.bool()].tolist()) for row, keep in zip(ids, real, strict=True)]
        self._side.routes = None  # the router may look at the base through the same modules
        with self._pruned.suspended():  # keys were made on the base as it is
            self.decisions = self._router.decide(prompts)
        self._side.routes = torch.tensor([d.shard for d in self.decisions])
        if self._listener is not None:
            self._listener(prompts, self.decisions)


@contextmanager
def attached(
    base: Base, memories: Sequence[Memory], router: Router, mask: HeadMask = NOTHING_PRUNED
) -> Iterator[Attached]:
    """Put the side memory in place of the edited projection, prune heads, and route every prompt.

    Pruned heads change how a prompt is answered, never where it is routed.

    On leaving the base is itself again, bit for bit. Not to be nested.
    """
    path = base.anchor.path
    side = SideMemoryLinear(base.model.get_submodule(path), memories)
    side.train(base.model.training)
    with mask.attached(base) as pruned:
        here = Attached(side, router, pruned)
        deciding = False

        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal deciding
            if deciding:  # the router's own look at the base
                return
            deciding = True
            try:
                here._before_forward(args, kwargs)
            finally:
                deciding = False

        # Without memories there is nothing to route to, and nothing need stand in the way.
        places = {path: side} if memories else {}
        with swapped(base.model, places), reading_inputs(base.model, {"": before}):
            yield here
