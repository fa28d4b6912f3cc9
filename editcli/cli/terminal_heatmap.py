"""Scores of heads as a map of characters: a row for each layer, a shade for each head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHADES = " .:-=+*#%@"
LABEL = "layer 00 ||"  # what stands on a line beside its shades


def terminal_map(heads: Sequence[Mapping[str, Any]], score: str, width: int = 80) -> list[str]:
    """Lines of text, the last layer first.

    The shade of a head is its share of the largest score; a head at 0 or below is blank. `heads`
    are the records of `conflict locate`. A head takes two characters where ``width`` allows it.
    """
    by_head = {(head["layer"], head["head"]): float(head[score]) for head in heads}
    largest = max(by_head.values())
    n_layers, n_heads = (1 + max(numbers) for numbers in zip(*by_head, strict=True))
    characters = 2 if len(LABEL) + 2 * n_heads <= width else 1

    def cell(layer: int, head: int) -> str:
        value = by_head.get((layer, head), 0.0)
        shade = 1 + int(value / largest * (len(SHADES) - 2)) if value > 0 else 0
        return SHADES[shade] * characters

    return [
        f"layer {layer:>2} |{''.join(cell(layer, head) for head in range(n_heads))}|"
        for layer in reversed(range(n_layers))
    ]
