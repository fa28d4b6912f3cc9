"""Pruning attention heads: what a head writes is scaled, or taken away, without touching a weight.

A head is the slice of features that its attention output projection reads; scaling the slice scales
exactly what the head adds to the residual stream, at prompt and generated tokens alike, and leaves
the projection's bias, which belongs to no head (PH3, arXiv 2402.18154, as JuICE and CUB re-run it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch

from editors.base import Base
from editors.errors import EditorError
from editors.hooks import changing_input


class Head(NamedTuple):
    """A query head: its layer and its number in it, both from 0."""

    layer: int
    head: int


@dataclass(frozen=True, slots=True)
class HeadMask:
    """Heads and the factor on what they write: 0 prunes them, 1 leaves them, 2 doubles them."""

    heads: tuple[Head, ...] = ()
    scale: float = 0.0

    def __post_init__(self) -> None:
        if len(set(self.heads)) != len(self.heads):
            raise EditorError("a head is named twice in one mask")

    @contextmanager
    def attached(self, base: Base) -> Iterator[None]:
        """The base with these heads scaled, inside ``with``; itself again, bit for bit, after.

        Raises:
            EditorError: there is no such layer or head.
            UnsupportedArchitecture: a layer has no separable heads.
        """
        with ExitStack() as stack:
            for layer in sorted({head.layer for head in self.heads}):
                block = base.architecture.block(layer)
                slices = [
                    base.architecture.head_slice(layer, head.head)
                    for head in self.heads
                    if head.layer == layer
                ]
                assert block.attention_out is not None  # head_slice has seen to that
                module = base.model.get_submodule(block.attention_out.path)
                stack.enter_context(changing_input(module, self._scaling(slices)))
            yield

    def _scaling(self, slices: Sequence[slice]) -> Callable[[torch.Tensor], torch.Tensor]:
        def scaled(inputs: torch.Tensor) -> torch.Tensor:
            changed = inputs.clone()  # [..., in]
            for features in slices:
                changed[..., features] *= self.scale
            return changed

        return scaled
