"""Attaching a side memory to its base: the model's own class goes on working, routed per row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from editors.errors import EditorError
from editors.heads.head_mask import NOTHING_PRUNED, Attachment, HeadMask
from editors.inference.hidden_states import Ids
from editors.methods.wise.shards import Memory, SideMemoryLinear
from editors.model.base_model import Base
from editors.model.hooks import hidden_of, reading_inputs, reading_outputs, swapped
from editors.scope.base import Decision, Router, SettlingRouter

Listener = Callable[[Sequence[Ids], Sequence[Decision]], None]


class Attached:
    """What is attached to a base: the decisions of the last prompts, and how scoring is routed."""

    def __init__(
        self,
        side: SideMemoryLinear,
        router: Router,
        settling: SettlingRouter | None,
        pruned: Attachment,
    ) -> None:
        """``settling``: the router, where the forward itself shows it all that it reads."""
        self.decisions: list[Decision] = []
        self._side, self._router, self._settling, self._pruned = side, router, settling, pruned
        self._look: _Look | None = None
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
        before, self._prompt_lengths = self._prompt_lengths, prompt_lengths
        try:
            with self._pruned.scoring(prompt_lengths):
                yield
        finally:
            self._prompt_lengths = before

    def reading_on(self, prompt_lengths: torch.Tensor) -> AbstractContextManager[None]:
        """Heads pruned from the end of prompts on are pruned after so many tokens of each row.

        Routing still reads whole rows: for texts that nobody answers, scored at every token.
        """
        return self._pruned.scoring(prompt_lengths)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Route as at the last prefill: forwards inside ``with`` take its rows, or repeat them."""
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before

    def _before_forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Decide at prefill, now or on the way; hold the decision while decoding."""
        past = kwargs.get("past_key_values")
        if past is not None and int(past.get_seq_length()) > 0:
            return
        self._side.on_arrival = self._look = None  # of a forward that broke off
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise EditorError("routing reads the prompt's tokens, but only embeddings were given")
        if self._held:
            self._side.route([d.shard for d in self.decisions] * (len(ids) // len(self.decisions)))
            return
        mask = kwargs.get("attention_mask")
        real = torch.ones_like(ids) if mask is None or mask.ndim != 2 else mask
        if self._prompt_lengths is not None:
            lengths = self._prompt_lengths.to(real.device)
            real = real * (real.cumsum(1) <= lengths[:, None])
        prompts = [tuple(row[keep.bool()].tolist()) for row, keep in zip(ids, real, strict=True)]
        self._side.route([])
        # Where pads shift positions, prompts are looked at without them.
        shifted = "position_ids" not in kwargs and not bool(real[:, 0].all())
        if self._settling is None or shifted:
            with self._pruned.suspended():  # keys were made on the base as it is
                self._decided(prompts, self._router.decide(prompts))
            return
        claims = self._settling.begin(prompts)
        if not claims.rows:
            self._decided(prompts, claims.decisions)
            return
        places = torch.arange(ids.shape[1], device=real.device)
        look = self._look = _Look(claims.rows, (real * places).amax(1)[claims.rows])

        def settle() -> None:
            assert self._settling is not None
            self._look = None
            self._decided(prompts, self._settling.settle(claims, look.states()))

        self._side.on_arrival = settle

    def _decided(self, prompts: Sequence[Ids], decisions: list[Decision]) -> None:
        self.decisions = decisions
        self._side.route([d.shard for d in decisions])
        if self._listener is not None:
            self._listener(prompts, decisions)

    def _after_block(self, output: Any) -> None:
        """What the router reads of a block, of the forward that it is to decide on."""
        if self._look is not None:
            self._look.read(hidden_of(output))


class _Look:
    """The states of some rows of a batch at one place each, block after block."""

    def __init__(self, rows: Sequence[int], places: torch.Tensor) -> None:
        """``places``: int64 ``[len(rows)]``."""
        self._rows, self._places = torch.tensor(rows), places
        self._read: list[torch.Tensor] = []

    def read(self, hidden: torch.Tensor) -> None:
        """``hidden``: ``[batch, seq, hidden]``."""
        at = self._rows.to(hidden.device), self._places.to(hidden.device)
        self._read.append(hidden.detach()[at])

    def states(self) -> torch.Tensor:
        """float32 ``[rows, layers, hidden]``, on the CPU."""
        return torch.stack([state.float().cpu() for state in self._read], 1)


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
    # A pruned base makes other states than those that keys were made of.
    settling = (
        router
        if isinstance(router, SettlingRouter) and not mask.heads and max(router.reads) < base.layer
        else None
    )
    with mask.attached(base) as pruned:
        here = Attached(side, router, settling, pruned)
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
        blocks = settling.reads if settling and memories else ()
        readers = {base.architecture.block(i).path: here._after_block for i in blocks}
        with (
            swapped(base.model, places),
            reading_inputs(base.model, {"": before}),
            reading_outputs(base.model, readers),
        ):
            yield here
