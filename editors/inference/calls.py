"""Prompts that are answered together, and the forwards that answer them.

A *call* is a batch of prompts with the decision on each prompt. A *forward* is one pass of the
model for a call. Each thread has one running forward, which the modules attached to the model can
look up (:func:`running_forward`).
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
"""How a larger batch repeats the rows of a call: "each" row several times before the next row, or
"all" rows in order, several times."""


@dataclass(eq=False, slots=True)
class Call:
    """Prompts that are answered together.

    ``prompts``: the token ids of each row, without pads. ``ends``: int64 ``[rows]``, the column of
    the last prompt token of each row. ``shifted``: some row begins with a pad. ``decisions``: one
    for each row, None until they are taken.
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
    """One forward of the model for a call. Its rows are the rows of the call, maybe repeated."""

    def __init__(
        self, call: Call, rows: int, columns: int, past: int, repeat: Repeat, outer: Forward | None
    ) -> None:
        """``columns``: the tokens of a row; ``past``: the columns in the cache before; ``outer``:
        the forward that this forward interrupts."""
        self.call, self.rows, self.past, self.repeat = call, rows, past, repeat
        self.outer = outer
        self._columns = columns
        self._undecided: list[int] = []
        self._states: list[torch.Tensor] = []
        self._decide: Callable[[torch.Tensor], list[Decision]] | None = None
        self._rows_of: dict[int, torch.Tensor] | None = None

    @staticmethod
    def broken(outer: Forward | None) -> Forward:
        """A forward that raised an error before its call was known."""
        return Forward(Call([], torch.zeros(0), False), 0, 0, 0, "each", outer)

    def memories(self) -> list[int] | None:
        """The number of the memory that answers each row of the forward, -1 for none; None if the
        call is not decided yet."""
        if self.call.decisions is None:
            return None
        memories = [decision.memory for decision in self.call.decisions]
        times = self.rows // len(memories)
        if self.repeat == "all":
            return memories * times
        return [memory for memory in memories for _ in range(times)]

    def rows_of(self) -> dict[int, torch.Tensor]:
        """By memory number, the int64 numbers of the rows that the memory answers.

        Takes the decisions first, if :meth:`decide_by` has postponed them.
        """
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
        """bool ``[rows, columns]``: True from the last prompt token of each row on; None if that is
        all columns."""
        ends = self.call.ends - self.past
        if bool((ends <= 0).all()):
            return None
        times = self.rows // len(ends)
        ends = ends.repeat_interleave(times) if self.repeat == "each" else ends.repeat(times)
        return torch.arange(self._columns, device=device) >= ends.to(device)[:, None]

    def decide_by(self, rows: list[int], decide: Callable[[torch.Tensor], list[Decision]]) -> bool:
        """Let :meth:`rows_of` decide, by the hidden states of ``rows`` of the call.

        ``decide``: the decisions of the call, from states ``[rows, blocks, hidden]``. Returns False
        if this forward does not hold whole prompts, each from the first column on.
        """
        if self.past or self.call.shifted or bool((self.call.ends >= self._columns).any()):
            return False
        self._undecided, self._decide = rows, decide
        return True

    def read(self, output: Any) -> None:
        """Keep the ``output`` of a block for the undecided rows, at their last prompt token."""
        if self._decide is None:
            return
        hidden = hidden_of(output).detach()  # [rows, columns, hidden]
        rows = torch.tensor(self._undecided)
        times = self.rows // len(self.call.prompts) if self.repeat == "each" else 1
        index = (rows * times).to(hidden.device), self.call.ends[rows].to(hidden.device)
        self._states.append(hidden[index].float().cpu())  # [undecided, hidden]


_running: ContextVar[Forward | None] = ContextVar("running", default=None)


def running_forward() -> Forward | None:
    """The forward that runs in this thread for a call; None if there is none, or if the thread is
    probing the unedited base."""
    return None if is_probing() else _running.get()


def begin_forward(forward: Forward) -> None:
    """Set ``forward`` as the running forward of this thread."""
    _running.set(forward)


def end_forward() -> Forward | None:
    """The forward that has just ended; the forward that it interrupted is the running one again."""
    forward = _running.get()
    if forward is not None:
        _running.set(forward.outer)
    return forward
