"""Scores of heads as a picture: a row for each layer, a shade for each head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHADES = " .:-=+*#%@"
LABEL = "layer 00 ||"


def terminal_map(heads: Sequence[Mapping[str, Any]], score: str) -> list[str]:
    """Lines of text, the last layer first; a shade is a share of the largest score, none below 0.

    `heads` are the records of `conflict locate`. Two characters a head where 80 columns allow it.
    """
    largest = max((float(head[score]) for head in heads), default=0.0)
    by_place = {(int(h["layer"]), int(h["head"])): float(h[score]) for h in heads}
    layers = 1 + max(layer for layer, _ in by_place)
    width = 1 + max(head for _, head in by_place)
    wide = 2 if len(LABEL) + 2 * width <= 80 else 1
    lines = []
    for layer in reversed(range(layers)):
        cells = "".join(
            _shade(by_place.get((layer, head), 0.0), largest) * wide for head in range(width)
        )
        lines.append(f"layer {layer:>2} |{cells}|")
    return lines


def _shade(value: float, largest: float) -> str:
    if value <= 0 or largest <= 0:
        return SHADES[0]
    return SHADES[min(len(SHADES) - 1, 1 + int(value / largest * (len(SHADES) - 2)))]
