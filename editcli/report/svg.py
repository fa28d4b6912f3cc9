"""Inline SVG for the report: scores of heads as a map, and a count over versions.

Colours come from the page (`var(--...)`), so that a drawing follows its light and dark theme. Each
drawing carries its content as text too, in `title` and `desc`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

CELL = 20  # user units, which are pixels
SMALL_CELL = 13  # so that two maps of 32 heads stand side by side
MANY = 16  # heads of a layer, above which cells are small
LEFT = 44  # for the numbers of layers
TOP = 18  # for the numbers of heads
MARKED_EVERY = 4  # heads, where there are many
STEPS = 5  # of a legend

Place = tuple[int, int]


def head_map(
    heads: Sequence[Mapping[str, Any]],
    score: str,
    outlined: Collection[Place],
    title: str,
    description: str,
) -> str:
    """A row for each layer, the last on top, a cell for each head; none is drawn for 0 and below.

    `heads` are the records of `conflict locate`; `outlined` (layer, head) get a frame.
    """
    values = {(int(h["layer"]), int(h["head"])): float(h[score]) for h in heads}
    layers = 1 + max(layer for layer, _ in values)
    width = 1 + max(head for _, head in values)
    largest = max(values.values())
    cell = CELL if width <= MANY else SMALL_CELL
    every = 1 if width <= 2 * MARKED_EVERY else MARKED_EVERY
    parts = [
        _text(LEFT + head * cell + cell / 2, TOP - 6, str(head), "middle")
        for head in range(0, width, every)
    ]
    parts += [
        _text(LEFT - 6, _row(layer, layers, cell) + cell / 2 + 4, str(layer), "end")
        for layer in range(layers)
        if layers <= 2 * MARKED_EVERY or layer % MARKED_EVERY == 0
    ]
    frames = []
    for (layer, head), value in sorted(values.items()):
        x, y = LEFT + head * cell, _row(layer, layers, cell)
        share = max(0.0, value / largest) if largest > 0 else 0.0
        parts.append(
            f'<rect class="cell" x="{x + 1}" y="{y + 1}" width="{cell - 2}" height="{cell - 2}" '
            f'fill-opacity="{share:.3f}"><title>layer {layer}, head {head}: {value:+.4f}'
            f"{', pruned' if (layer, head) in outlined else ''}</title></rect>"
        )
        if (layer, head) in outlined:
            frames.append(_frame(x, y, cell))
    # Frames last, so that no neighbour covers them.
    wide, high = LEFT + width * cell + 4, TOP + layers * cell + 4
    return (
        f'<svg class="map {escape(score)}" role="img" viewBox="0 0 {wide} {high}" '
        f'width="{wide}" height="{high}" aria-label="{escape(title)}">'
        f"<desc>{escape(description)}</desc>{''.join(parts + frames)}</svg>"
    )


def legend(score: str, largest: float) -> str:
    """Shades from 0 to the largest score, and the frame of a pruned head."""
    swatches = "".join(
        f'<rect class="cell" x="{1 + step * CELL}" y="1" width="{CELL - 2}" height="{CELL - 2}" '
        f'fill-opacity="{step / (STEPS - 1):.2f}"/>'
        for step in range(STEPS)
    )
    wide = STEPS * CELL
    shades = (
        f'<svg class="map {escape(score)}" aria-hidden="true" viewBox="0 0 {wide} {CELL}" '
        f'width="{wide}" height="{CELL}">{swatches}</svg>'
    )
    framed = (
        f'<svg class="map {escape(score)}" aria-hidden="true" viewBox="-1 -1 {CELL + 2} '
        f'{CELL + 2}" width="{CELL + 2}" height="{CELL + 2}">{_frame(0, 0, CELL)}</svg>'
    )
    return (
        f'<p class="legend"><span>0 or less</span> {shades} <span>{largest:.3g}</span> '
        f"<span>{framed} pruned</span></p>"
    )


def steps(counts: Sequence[int], title: str) -> str:
    """A count as it went, one step each; it is stretched to the width that the page has."""
    high = max(1, *counts)
    count = len(counts)
    points = []
    for number, value in enumerate(counts):
        y = 100 - 96 * value / high
        points += [f"{number},{y:.2f}", f"{number + 1},{y:.2f}"]
    line = " ".join(points)
    return (
        f'<svg class="steps" role="img" viewBox="0 0 {count} 100" preserveAspectRatio="none" '
        f'aria-label="{escape(title)}"><polygon points="0,100 {line} {count},100"/>'
        f'<polyline points="{line}"/></svg>'
    )


def _row(layer: int, layers: int, cell: int) -> int:
    return TOP + (layers - 1 - layer) * cell


def _frame(x: int, y: int, cell: int) -> str:
    return (
        f'<rect class="frame" x="{x + 0.5}" y="{y + 0.5}" width="{cell - 1}" height="{cell - 1}"/>'
    )


def _text(x: float, y: float, said: str, anchor: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{said}</text>'
