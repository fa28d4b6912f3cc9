"""Which attention heads a version prunes, and how that was found. Needs no tensor library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from editors.errors import EditorError

if TYPE_CHECKING:
    import torch

At = Literal["all", "end"]
Source = Literal["context", "memory"]
"""Where an answer comes from: the passage in the prompt, or the model's weights and edits."""


class Head(NamedTuple):
    """A query head: its layer and its number in the layer, both from 0."""

    layer: int
    head: int


@dataclass(frozen=True, slots=True)
class HeadMask:
    """Heads, and what becomes of what each of them writes.

    ``scale``: the factor on it; 0 ablates the head, 1 leaves it, 2 doubles it. ``at``: "all"
    positions, prompt and generated alike, or from the "end" of the prompt on, where the answer is
    read off. ``fill``: by head ``[head_dim]``, what a head is scaled towards: nothing for zero
    ablation, its mean for mean ablation.
    """

    heads: tuple[Head, ...] = ()
    scale: float = 0.0
    at: At = "all"
    fill: Mapping[Head, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(set(self.heads)) != len(self.heads):
            raise EditorError("a head is named twice in one mask")


NOTHING_PRUNED = HeadMask()


@dataclass(frozen=True, slots=True)
class HeadPruning:
    """A head mask as a version keeps it, and how it was found.

    ``prefer``: the source it favours; ``edits``: the id of the edits in force when its heads were
    ranked (heads that were ranked for other edits are stale); ``report``: plain JSON, all that was
    measured and the settings behind it.
    """

    prefer: Source
    mask: HeadMask
    edits: str
    report: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All but the tensors of ``mask.fill``."""
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
        """What :meth:`to_dict` wrote; KeyError, TypeError or ValueError for anything else."""
        heads = tuple(Head(*(int(n) for n in pair)) for pair in record["heads"])
        if record["at"] not in ("all", "end") or record["prefer"] not in ("context", "memory"):
            raise ValueError("no such position or source")
        if len(set(heads)) != len(heads):
            raise ValueError("a head is named twice")
        mask = HeadMask(heads, float(record["scale"]), record["at"])
        return HeadPruning(record["prefer"], mask, record["edits"], record["report"])
