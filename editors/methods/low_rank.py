"""Memories of low rank, which other engines can hold as adapters."""

from __future__ import annotations

from dataclasses import dataclass

import torch

MAKE_A_STORE = "apply the facts to a new store: `editcli init MODEL --set memory=low-rank`"
"""The next step where memories are not of low rank."""


def adapter_name(memory: int) -> str:
    """What the adapter made of ``memory``, as numbered in decisions, is called."""
    return f"shard-{memory:04d}"


@dataclass(frozen=True, slots=True)
class LowRankMemory:
    """A memory that adds ``up @ down`` to the weight of the edited projection.

    ``facts``: the ids of the facts in force that it answers; ``up``: ``[out, rank]`` and ``down``:
    ``[rank, in]``, in the dtype of the base.
    """

    facts: tuple[str, ...]
    up: torch.Tensor
    down: torch.Tensor
