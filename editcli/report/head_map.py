"""Scores of heads as a map: where its cells, labels and frames are drawn."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from editors.heads.pruning import Head

CELL = 20  # user units, which are pixels
SMALL_CELL = 13  # so that two maps of 32 heads stand side by side
MANY = 16  # heads of a layer; with more, cells are small
LEFT = 44  # for the numbers of layers
TOP = 18  # for the numbers of heads
MARKED_EVERY = 4  # heads or layers, where there are many
LISTED = 10  # best heads, in the description


@dataclass(frozen=True, slots=True)
class Label:
    """A number beside the map."""

    x: float
    y: float
    text: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One head: its corner, its share of the largest score, and whether it has a frame."""

    x: int
    y: int
    share: float
    title: str
    outlined: bool


@dataclass(frozen=True, slots=True)
class HeadMap:
    """A drawing of one score of all heads, in user units."""

    score: str
    width: int
    height: int
    cell: int
    description: str
    largest: float
    labels: tuple[Label, ...]
    cells: tuple[Cell, ...]

    @property
    def title(self) -> str:
        return f"{self.score} heads"

    @staticmethod
    def of(heads: Sequence[Mapping[str, Any]], score: str, outlined: Collection[Head]) -> HeadMap:
        """The map of ``heads``, the records of `conflict locate`; a score of 0 or below has no
        colour.

        The heads ``outlined`` get a frame.
        """
        values = {Head(int(h["layer"]), int(h["head"])): float(h[score]) for h in heads}
        ranked = sorted(values.items(), key=lambda item: -item[1])[:LISTED]
        best = ", ".join(f"{head.layer}.{head.head} ({value:+.3f})" for head, value in ranked)
        layers = 1 + max(head.layer for head in values)
        width = 1 + max(head.head for head in values)
        largest = max(0.0, *values.values())
        cell = CELL if width <= MANY else SMALL_CELL

        def row(layer: int) -> int:
            return TOP + (layers - 1 - layer) * cell

        labels = [
            Label(LEFT + head * cell + cell / 2, TOP - 6, str(head), "middle")
            for head in range(0, width, 1 if width <= 2 * MARKED_EVERY else MARKED_EVERY)
        ]
        labels += [
            Label(LEFT - 6, row(layer) + cell / 2 + 4, str(layer), "end")
            for layer in range(0, layers, 1 if layers <= 2 * MARKED_EVERY else MARKED_EVERY)
        ]
        cells = [
            Cell(
                LEFT + head.head * cell,
                row(head.layer),
                max(0.0, value / largest) if largest else 0.0,
                f"layer {head.layer}, head {head.head}: {value:+.4f}"
                + (", pruned" if head in outlined else ""),
                head in outlined,
            )
            for head, value in sorted(values.items())
        ]
        return HeadMap(
            score,
            LEFT + width * cell + 4,
            TOP + layers * cell + 4,
            cell,
            f"Best first: {best}",
            largest,
            tuple(labels),
            tuple(cells),
        )
