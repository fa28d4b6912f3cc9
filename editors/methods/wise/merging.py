"""Merging the deltas of several shards into one: TIES, or the mean.

Pure functions of tensors. A delta is the weight of a shard minus the weight of the main memory
(WISE, arXiv 2405.14768, Eq. 8).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


def ties(deltas: Sequence[torch.Tensor], density: float = 1.0) -> torch.Tensor:
    """TIES (arXiv 2306.01708; WISE Eq. 8): trim each delta, elect a sign for each entry, and take
    the mean of the values with that sign.

    ``deltas``: tensors of one shape, also that of the result. ``density`` in (0, 1]: the share of
    the entries of each delta, largest first, that is kept; 1 trims nothing. An entry that is
    nonzero in one delta only keeps its value. Of conflicting signs, the one with the larger sum is
    elected.
    """
    stacked = torch.stack([_trim(delta, density) for delta in deltas])  # [shard, ...]
    elected = stacked.sum(0).sign()  # [...]
    agreeing = (stacked.sign() == elected) & (stacked != 0)
    total = torch.where(agreeing, stacked, 0).sum(0)
    return total / agreeing.sum(0).clamp(min=1)


def linear(deltas: Sequence[torch.Tensor], density: float = 1.0) -> torch.Tensor:
    """The mean of the deltas, each trimmed to ``density``; arguments as for :func:`ties`."""
    return torch.stack([_trim(delta, density) for delta in deltas]).mean(0)


Merge = Callable[[Sequence[torch.Tensor], float], torch.Tensor]

MERGES: dict[str, Merge] = {"ties": ties, "linear": linear}

ROWS_MERGED = 64  # of the deltas, together


def _trim(delta: torch.Tensor, density: float) -> torch.Tensor:
    """``delta`` with all but its largest ``density`` share of entries set to zero."""
    if density >= 1:
        return delta
    keep = max(1, round(density * delta.numel()))
    floor = delta.abs().flatten().kthvalue(delta.numel() - keep + 1).values
    return torch.where(delta.abs() >= floor, delta, 0)


def merged_in_parts(deltas: Sequence[torch.Tensor], merge: Merge, density: float) -> torch.Tensor:
    """``[out, in]``: ``deltas``, each ``[out, in]``, merged. Where rows do not depend on each
    other, few of them are merged at a time, which takes little memory."""
    if density < 1:
        return merge(deltas, density)
    starts = range(0, len(deltas[0]), ROWS_MERGED)
    parts = ([delta[start : start + ROWS_MERGED] for delta in deltas] for start in starts)
    return torch.cat([merge(part, density) for part in parts])
