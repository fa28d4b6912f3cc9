"""Prompts that are answered together, and the forwards that answer them.

A *call* is a batch of prompts with the decision on each prompt. A *forward* is one pass of the
model for a call. Each thread has one running forward, which the modules attached to the model can
look up (:func:`running_forward`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch

from editors.inference.decisions import Decision
from editors.model.base_model import is_probing
from editors.model.hooks import Within, hidden_of, setting
from editors.model.tokenization import Ids


@dataclass(eq=False, slots=True)
class Call:
    """Prompts that are answered together.

    ``prompts``: the token ids of each row, without pads. ``ends``: int64 ``[rows]``, the column of
    the last prompt token of each row. ``decisions``: one for each row, empty until they are taken.
    """

    prompts: list[Ids]
    ends: torch.Tensor
    decisions: list[Decision] = field(default_factory=list)

    @staticmethod
    def of(ids: torch.Tensor, mask: torch.Tensor | None) -> Call:
        """The call of the :func:`real_tokens` of ``ids``, int64 ``[rows, columns]``."""
        real = real_tokens(ids, mask).bool()
        prompts = [tuple(row[keep].tolist()) for row, keep in zip(ids, real, strict=True)]
        columns = torch.arange(ids.shape[1], device=ids.device)
        return Call(prompts, torch.where(real, columns, -1).amax(1).cpu())


def real_tokens(ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """int64 ``[rows, columns]``: ``mask``, or ones if there is no mask of the shape of ``ids``."""
    return mask if mask is not None and mask.shape == ids.shape else torch.ones_like(ids)


@dataclass(eq=False, slots=True)
class Forward:
    """One forward of the model for a call. Its rows are the rows of the call, maybe repeated.

    ``call_rows``: by row, the row of the call. ``columns``: the tokens of a row. ``past``: the
    columns in the cache before.
    """

    call: Call
    call_rows: list[int]
    columns: int
    past: int
    _read_at: tuple[list[int], torch.Tensor] | None = None
    _states: list[torch.Tensor] = field(default_factory=list)
    _decide: Callable[[torch.Tensor], list[Decision]] | None = None

    def memories(self) -> list[int]:
        """The number of the memory that answers each row of the forward, -1 for none.

        Takes the decisions first, if :meth:`decide_by` has postponed them.
        """
        if self._decide is not None:
            decide, self._decide = self._decide, None
            self.call.decisions = decide(torch.stack(self._states, 1))
        return [self.call.decisions[row].memory for row in self.call_rows]

    def rows_of(self) -> dict[int, torch.Tensor]:
        """By memory number, the int64 numbers of the rows that the memory answers, as
        :meth:`memories` says."""
        memories = self.memories()
        numbers = torch.tensor(memories)
        return {
            memory: (numbers == memory).nonzero()[:, 0] for memory in sorted({*memories} - {-1})
        }

    def from_prompt_ends(self, device: torch.device) -> torch.Tensor | None:
        """bool ``[rows, columns]``: True from the last prompt token of each row on; None if that is
        all columns."""
        ends = self.call.ends - self.past
        if bool((ends <= 0).all()):
            return None
        return torch.arange(self.columns, device=device) >= ends[self.call_rows, None].to(device)

    def decide_by(
        self,
        rows: list[int],
        decide: Callable[[torch.Tensor], list[Decision]],
        positions: torch.Tensor | None,
    ) -> bool:
        """Let :meth:`memories` decide, by the hidden states of ``rows`` of the call.

        ``decide``: the decisions of the call, from states ``[rows, blocks, hidden]``.
        ``positions``: the positions of the tokens as the model is told them, int64 ``[rows or 1,
        columns]``. Returns False if this forward does not hold whole prompts, or does not count
        their positions from 0: pads on the left are counted where no positions are told.
        """
        if self.past or int(self.call.ends.max()) >= self.columns:
            return False
        at, ends = [self.call_rows.index(row) for row in rows], self.call.ends[rows]
        counted = ends
        if positions is not None and positions.ndim == 2:
            counted = positions.cpu().expand(len(self.call_rows), -1)[at, ends]
        if counted.tolist() != [len(self.call.prompts[row]) - 1 for row in rows]:
            return False
        self._read_at = at, ends
        self._decide = decide
        return True

    def read(self, output: Any) -> None:
        """Keep the ``output`` of a block for the undecided rows, at their last prompt token."""
        if self._decide is not None:
            hidden = hidden_of(output).detach()  # [rows, columns, hidden]
            self._states.append(hidden[self._read_at].float().cpu())  # [undecided, hidden]


_running: ContextVar[Forward | None] = ContextVar("running", default=None)


def running_forward() -> Forward | None:
    """The forward that runs in this thread for a call; None if there is none, or if the thread is
    probing the unedited base."""
    return None if is_probing() else _running.get()


def running(forward: Forward) -> Within:
    """Inside ``with``, ``forward`` is the running forward of this thread."""
    return setting(_running, forward)
