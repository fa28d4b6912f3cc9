"""Pruning attention heads: what a head writes is scaled, or taken away, without touching a weight.

A head is the slice of features that its attention output projection reads; changing the slice
changes exactly what the head adds to the residual stream and leaves the projection's bias, which
belongs to no head (PH3, arXiv 2402.18154, as JuICE and CUB re-run it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch

from editors.errors import EditorError
from editors.model.base_model import Base
from editors.model.hooks import changing_input, reading_inputs

At = Literal["all", "end"]


class Head(NamedTuple):
    """A query head: its layer and its number in it, both from 0."""

    layer: int
    head: int


@dataclass(frozen=True, slots=True)
class HeadMask:
    """Heads, and what becomes of what each writes.

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

    @contextmanager
    def attached(self, base: Base) -> Iterator[Attachment]:
        """The base with these heads changed, inside ``with``; itself again, bit for bit, after.

        Raises:
            EditorError: there is no such layer or head.
            UnsupportedArchitecture: a layer has no separable heads.
        """
        attachment = Attachment(self)
        with ExitStack() as stack:
            if self.at == "end" and self.heads:
                stack.enter_context(reading_inputs(base.model, {"": attachment._look}))
            for layer in sorted({head.layer for head in self.heads}):
                slices = {
                    head: base.architecture.head_slice(layer, head.head)
                    for head in self.heads
                    if head.layer == layer
                }
                projection = base.architecture.block(layer).attention_out
                assert projection is not None  # head_slice has seen to that
                module = base.model.get_submodule(projection.path)
                stack.enter_context(changing_input(module, attachment._changing(slices)))
            yield attachment


NOTHING_PRUNED = HeadMask()


@dataclass(frozen=True, slots=True)
class Resolution:
    """A head mask as a version keeps it, and how it was found.

    ``prefer``: which source it favours; ``edits``: the id of the edits in force when its heads were
    ranked (a set of heads found for other edits is stale); ``report``: plain JSON, all that was
    measured and the settings behind it.
    """

    prefer: Literal["context", "memory"]
    mask: HeadMask
    edits: str
    report: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All but the tensors of ``mask.fill``."""
        mask = {"heads": [list(h) for h in self.mask.heads], "scale": self.mask.scale}
        return {
            "prefer": self.prefer,
            **mask,
            "at": self.mask.at,
            "edits": self.edits,
            "report": dict(self.report),
        }

    @staticmethod
    def from_dict(told: Mapping[str, Any], fill: Mapping[Head, torch.Tensor]) -> Resolution:
        """What :meth:`to_dict` wrote; KeyError, TypeError or ValueError for anything else."""
        heads = tuple(Head(*(int(n) for n in pair)) for pair in told["heads"])
        if told["at"] not in ("all", "end") or told["prefer"] not in ("context", "memory"):
            raise ValueError("no such place or preference")
        if len(set(heads)) != len(heads):
            raise ValueError("a head is named twice")
        mask = HeadMask(heads, float(told["scale"]), told["at"], dict(fill))
        return Resolution(told["prefer"], mask, told["edits"], told["report"])


class Attachment:
    """A mask at work on a base: whom it spares for a while, and where prompts end."""

    def __init__(self, mask: HeadMask) -> None:
        self._mask = mask
        self._suspended = False
        self._prompt_lengths: torch.Tensor | None = None
        self._asked: torch.Tensor | None = None  # bool [rows, seq]; None: every position

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """The base as it is without the mask, inside ``with``."""
        before, self._suspended = self._suspended, True
        try:
            yield
        finally:
            self._suspended = before

    @contextmanager
    def scoring(self, prompt_lengths: torch.Tensor) -> Iterator[None]:
        """Prompts end after ``prompt_lengths`` ``[rows]`` real tokens, not with the row."""
        before, self._prompt_lengths = self._prompt_lengths, prompt_lengths
        try:
            yield
        finally:
            self._prompt_lengths = before

    def _look(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Find the positions from each prompt's end on, before the model runs."""
        if self._suspended:  # a look at the base in the midst of a forward
            return
        self._asked = None
        past = kwargs.get("past_key_values")
        if past is not None and int(past.get_seq_length()) > 0:
            return
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise EditorError("a mask at the end of prompts needs their tokens, not embeddings")
        mask = kwargs.get("attention_mask")
        real = torch.ones_like(ids) if mask is None or mask.ndim != 2 else mask
        place = real.cumsum(1)  # [rows, seq]: 1-based number of each real token
        lengths = self._prompt_lengths
        ends = place[:, -1] if lengths is None else lengths.to(place.device)
        self._asked = (place >= ends[:, None]) & real.bool()

    def _changing(self, slices: Mapping[Head, slice]) -> Callable[[torch.Tensor], torch.Tensor]:
        scale, fill = self._mask.scale, self._mask.fill

        def change(inputs: torch.Tensor) -> torch.Tensor:
            if self._suspended:
                return inputs
            changed = inputs.clone()  # [..., in]
            for head, features in slices.items():
                part = inputs[..., features] * scale
                if head in fill:
                    part = part + (1 - scale) * fill[head].to(part)
                changed[..., features] = part
            if self._asked is None:
                return changed
            # Some blocks flatten what their projection reads to [rows * seq, in].
            asked = self._asked.to(inputs.device).view(*inputs.shape[:-1], 1)
            return torch.where(asked, changed, inputs)

        return change


def mean_fill(
    base: Base, heads: Sequence[Head], prompts: Sequence[Sequence[int]], at: At
) -> dict[Head, torch.Tensor]:
    """By head float32 ``[head_dim]``: the mean of what it hands on, over ``prompts`` of token ids.

    Over all tokens, or the last token of each prompt where ``at`` is "end" (PH3 section 1.10: the
    gentler control for whether the head mattered or the network left its usual range).
    """
    sums: dict[Head, torch.Tensor] = {}
    seen: dict[int, torch.Tensor] = {}  # by layer
    count = 0
    slices = {head: base.architecture.head_slice(head.layer, head.head) for head in heads}
    readers = {}
    for layer in sorted({head.layer for head in heads}):
        projection = base.architecture.block(layer).attention_out
        assert projection is not None

        def read(args: tuple[Any, ...], _: dict[str, Any], layer: int = layer) -> None:
            # The last call counts: a router may have looked at the prompt before.
            seen[layer] = args[0].reshape(-1, args[0].shape[-1])  # [tokens, in] of one prompt

        readers[projection.path] = read
    with torch.inference_mode(), reading_inputs(base.model, readers):
        for prompt in prompts:
            base.model(input_ids=torch.tensor([list(prompt)]).to(base.input_device))
            count += 1 if at == "end" else len(prompt)
            for head in heads:
                taken = seen[head.layer][-1:] if at == "end" else seen[head.layer]
                total = taken[:, slices[head]].float().sum(0).cpu()
                sums[head] = sums[head] + total if head in sums else total
    return {head: total / count for head, total in sums.items()}
