"""Merging the deltas of several shards into one: TIES, and the plain linear mean.

Pure functions of tensors. A delta is a shard's weight minus the main memory's (WISE Eq. 8).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from editors.errors import EditorError


def ties(deltas: Sequence[torch.Tensor], density: float = 1.0) -> torch.Tensor:
    """Trim, elect a sign, and take the mean of those that agree (TIES; WISE Eq. 8).

    ``deltas``: tensors of one shape. ``density`` in (0, 1]: the share of each delta's entries, by
    magnitude, that is kept before the election; 1 trims nothing. An entry set in one delta only
    keeps its full value; where signs conflict the side with the larger sum wins alone.
    """
    stacked = torch.stack([_trim(delta, density) for delta in deltas])  # [shard, ...]
    elected = stacked.sum(0).sign()  # [...]
    agreeing = (stacked.sign() == elected) & (stacked != 0)
    total = torch.where(agreeing, stacked, 0).sum(0)
    return total / agreeing.sum(0).clamp(min=1)


def linear(deltas: Sequence[torch.Tensor], density: float = 1.0) -> torch.Tensor:
    """The mean of the deltas, each trimmed to ``density``."""
    return torch.stack([_trim(delta, density) for delta in deltas]).mean(0)


_MERGES: dict[str, Callable[[Sequence[torch.Tensor], float], torch.Tensor]] = {
    "ties": ties,
    "linear": linear,
}


def merge(name: str, deltas: Sequence[torch.Tensor], density: float = 1.0) -> torch.Tensor:
    """The named merge of ``deltas``.

    Raises:
        EditorError: no merge has that name, or ``density`` is outside (0, 1].
    """
    if name not in _MERGES:
        raise EditorError(
            f"no merge is called {name!r}", f"`--set merge=` takes {', '.join(sorted(_MERGES))}"
        )
    if not 0 < density <= 1:
        raise EditorError(f"density must be above 0 and at most 1, not {density}")
    return _MERGES[name](deltas, density)


def _trim(delta: torch.Tensor, density: float) -> torch.Tensor:
    """``delta`` with all but its largest ``density`` share of entries set to zero."""
    if density >= 1:
        return delta
    keep = max(1, round(density * delta.numel()))
    floor = delta.abs().flatten().kthvalue(delta.numel() - keep + 1).values
    return torch.where(delta.abs() >= floor, delta, 0)
