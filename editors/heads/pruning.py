"""Which attention heads a version prunes, and how they were chosen. Needs no tensor library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from editors.errors import EditorError

if TYPE_CHECKING:
    import torch

At = Literal["all", "end"]
Source = Literal["context", "memory"]
"""The source of an answer: the passage in the prompt, or memory (the model's weights and edits)."""


class Head(NamedTuple):
    """A query head: its layer and its number in the layer, both from 0."""

    layer: int
    head: int


@dataclass(frozen=True, slots=True)
class HeadMask:
    """Heads, and how their outputs change. Raises EditorError if a head is named twice.

    ``scale``: the factor on the output; 0 ablates the head, 1 changes nothing, 2 doubles it.
    ``at``: "all" positions, prompt and answer alike, or from the "end" of the prompt on (its last
    token, which predicts the answer). ``fill``: by head ``[head_dim]``, the vector that outputs are
    scaled towards: absent for zero ablation, the mean output for mean ablation.
    """

    heads: tuple[Head, ...] = ()
    scale: float = 0.0
    at: At = "all"
    fill: Mapping[Head, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(set(self.heads)) != len(self.heads):
            raise EditorError("a head is named twice in one mask")


@dataclass(frozen=True, slots=True)
class HeadPruning:
    """The head mask of a version, and how its heads were chosen.

    ``prefer``: the source that wins after pruning; ``edits``: :attr:`EditState.edits` when the
    heads were ranked (with other edits in force, the ranking is stale); ``report``: plain JSON, all
    measurements and settings.
    """

    prefer: Source
    mask: HeadMask
    edits: str
    report: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The pruning as plain JSON, without the tensors of ``mask.fill``."""
        return {
            "prefer": self.prefer,
            "heads": [list(head) for head in self.mask.heads],
            "scale": self.mask.scale,
            "at": self.mask.at,
            "edits": self.edits,
            "report": dict(self.report),
        }

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> HeadPruning:
        """The pruning that :meth:`to_dict` wrote; raises KeyError, TypeError or ValueError for
        other data."""
        heads = tuple(Head(*map(int, pair)) for pair in record["heads"])
        if record["at"] not in ("all", "end") or record["prefer"] not in ("context", "memory"):
            raise ValueError("no such position or source")
        if len(set(heads)) != len(heads):
            raise ValueError("a head is named twice")
        mask = HeadMask(heads, float(record["scale"]), record["at"])
        return HeadPruning(record["prefer"], mask, record["edits"], record["report"])
