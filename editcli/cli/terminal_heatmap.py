"""Scores of heads as a map of characters: a row for each layer, a shade for each head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHADES = " .:-=+*#%@"
LABEL = "layer 00 ||"  # what stands on a line beside its shades


def terminal_map(heads: Sequence[Mapping[str, Any]], score: str) -> list[str]:
    """Lines of text, the last layer first.

    The shade of a head is its share of the largest score; a head at 0 or below is blank. `heads`
    are the records of `conflict locate`. A head takes two characters where 80 columns allow it.
    """
    largest = max((float(head[score]) for head in heads), default=0.0)
    by_head = {(int(h["layer"]), int(h["head"])): float(h[score]) for h in heads}
    n_layers = 1 + max(layer for layer, _ in by_head)
    n_heads = 1 + max(head for _, head in by_head)
    characters = 2 if len(LABEL) + 2 * n_heads <= 80 else 1
    lines = []
    for layer in reversed(range(n_layers)):
        cells = "".join(
            _shade(by_head.get((layer, head), 0.0), largest) * characters for head in range(n_heads)
        )
        lines.append(f"layer {layer:>2} |{cells}|")
    return lines


def _shade(value: float, largest: float) -> str:
    if value <= 0 or largest <= 0:
        return SHADES[0]
    return SHADES[min(len(SHADES) - 1, 1 + int(value / largest * (len(SHADES) - 2)))]
