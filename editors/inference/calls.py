"""Prompts that are answered together, and the forwards that answer them.

A *call* is a batch of prompts with what was decided of each; a *forward* is one pass of the model
on its behalf. The forward that runs is kept for each thread, where whatever is attached to the
model finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import torch

from editors.inference.decisions import Decision
from editors.model.base_model import is_probing
from editors.model.hooks import hidden_of
from editors.model.tokenization import Ids

Repeat = Literal["each", "all"]
"""How the rows of a call fill a larger batch: each row several times, or all rows in turn."""


@dataclass(eq=False, slots=True)
class Call:
    """Prompts that are answered together.

    ``prompts``: the token ids of each row, without pads. ``ends``: int64 ``[rows]``, the column of
    each row's last prompt token. ``shifted``: a pad stands before a prompt. ``decisions``: one for
    each row, None until they are taken.
    """

    prompts: list[Ids]
    ends: torch.Tensor
    shifted: bool
    decisions: list[Decision] | None = None

    @staticmethod
    def of(ids: torch.Tensor, mask: torch.Tensor) -> Call:
        """The call of the real tokens (``mask`` 1) of ``ids``, both int64 ``[rows, columns]``."""
        real = mask.bool()
        prompts = [tuple(row[keep].tolist()) for row, keep in zip(ids, real, strict=True)]
        columns = torch.arange(ids.shape[1], device=ids.device)
        ends = torch.where(real, columns, -1).amax(1).cpu()
        return Call(prompts, ends, not bool(real[:, 0].all()))


class Forward:
    """One forward of the model on behalf of a call; its rows are those of the call, or repeat
    them."""

    def __init__(
        self, call: Call, rows: int, columns: int, past: int, repeat: Repeat, outer: Forward | None
    ) -> None:
        """``columns``: tokens of a row; ``past``: columns that its cache held before; ``outer``:
        the forward that it interrupts."""
        self.call, self.rows, self.past, self.repeat = call, rows, past, repeat
        self.outer = outer
        self._columns = columns
        self._undecided: list[int] = []
        self._states: list[torch.Tensor] = []
        self._decide: Callable[[torch.Tensor], list[Decision]] | None = None
        self._rows_of: dict[int, torch.Tensor] | None = None

    @staticmethod
    def broken(outer: Forward | None) -> Forward:
        """A forward that broke off before its call was known."""
        return Forward(Call([], torch.zeros(0), False), 0, 0, 0, "each", outer)

    def memories(self) -> list[int] | None:
        """The memory that answers each row of the forward, -1 for none; None: not decided yet."""
        if self.call.decisions is None:
            return None
        memories = [decision.memory for decision in self.call.decisions]
        times = self.rows // len(memories)
        if self.repeat == "all":
            return memories * times
        return [memory for memory in memories for _ in range(times)]

    def rows_of(self) -> dict[int, torch.Tensor]:
        """By memory, int64 numbers of the rows that it answers; decides if that is still due."""
        if self._decide is not None:
            decide, self._decide = self._decide, None
            self.call.decisions = decide(torch.stack(self._states, 1))
        if self._rows_of is None:
            memories = self.memories() or []
            numbers = torch.tensor(memories, dtype=torch.long)
            self._rows_of = {
                memory: (numbers == memory).nonzero()[:, 0]
                for memory in sorted({memory for memory in memories if memory >= 0})
            }
        return self._rows_of

    def from_prompt_ends(self, device: torch.device) -> torch.Tensor | None:
        """bool ``[rows, columns]``: from each row's last prompt token on; None: everywhere."""
        ends = self.call.ends - self.past
        if bool((ends <= 0).all()):
            return None
        times = self.rows // len(ends)
        ends = ends.repeat_interleave(times) if self.repeat == "each" else ends.repeat(times)
        return torch.arange(self._columns, device=device) >= ends.to(device)[:, None]

    def decide_by(self, rows: list[int], decide: Callable[[torch.Tensor], list[Decision]]) -> bool:
        """Decide by the states of ``rows`` of the call, once somebody asks for the decision.

        False where this forward does not show the last token of each prompt as it is.
        """
        if self.past or self.call.shifted or bool((self.call.ends >= self._columns).any()):
            return False
        self._undecided, self._decide = rows, decide
        return True

    def read(self, output: Any) -> None:
        """Keep what a block gave for the undecided rows, at the last token of their prompts."""
        if self._decide is None:
            return
        hidden = hidden_of(output).detach()  # [rows, columns, hidden]
        rows = torch.tensor(self._undecided)
        times = self.rows // len(self.call.prompts) if self.repeat == "each" else 1
        index = (rows * times).to(hidden.device), self.call.ends[rows].to(hidden.device)
        self._states.append(hidden[index].float().cpu())  # [undecided, hidden]


_running: ContextVar[Forward | None] = ContextVar("running", default=None)


def running_forward() -> Forward | None:
    """The forward that runs in this thread on behalf of a call, if one does."""
    return None if is_probing() else _running.get()


def begin_forward(forward: Forward) -> None:
    """``forward`` runs from now on, in this thread."""
    _running.set(forward)


def end_forward() -> Forward | None:
    """The forward that ran; what it interrupted goes on."""
    forward = _running.get()
    if forward is not None:
        _running.set(forward.outer)
    return forward
