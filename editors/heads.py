"""Path patching: what each attention head writes straight into the answer.

The direct effect of a head on the logits (Wang et al., arXiv 2211.00593; Goldowsky-Dill et al.,
arXiv 2304.05969), which PH3 (arXiv 2402.18154) ranks heads by: the head's output at the last prompt
token comes from a corrupted run, every other head's from the original one, MLPs and norms are
recomputed. As all heads are held, nothing but the last token can change: one token goes through the
blocks' MLPs, once for all heads.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from editors.base import Base
from editors.errors import EditorError, UnsupportedArchitecture
from editors.hooks import StandIn, reading_inputs, reading_outputs, swapped
from editors.tokens import Batch

ROWS_AT_ONCE = 4096  # single tokens in one sweep


@dataclass(frozen=True, slots=True)
class _Run:
    """What a forward left at the last prompt token of each row.

    ``heads``: by layer ``[rows, in]``, what the attention output projection read; ``written``: by
    layer ``[rows, hidden]``, what it wrote; ``logits``: ``[rows, vocab]``, before any soft cap.
    """

    heads: dict[int, torch.Tensor]
    written: dict[int, torch.Tensor]
    logits: torch.Tensor


class _Held(StandIn):
    """Writes what it is told to, whatever it reads."""

    def __init__(self, original: torch.nn.Module, written: torch.Tensor) -> None:
        super().__init__(original)
        object.__setattr__(self, "_written", written)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._written


def path_effects(
    base: Base, original: Batch, corrupted: Batch, tokens: torch.Tensor
) -> torch.Tensor:
    """``[layers, heads, rows, tokens]``: how much each logit loses when a head is patched.

    ``original`` and ``corrupted``: as many rows each, padded on the right, prompts only;
    ``tokens``: int64 ``[rows, tokens]``, the first tokens of answers. Layers without separable
    heads have effect 0. Logits are taken before any soft cap (PH3 section 1.7).

    Raises:
        EditorError: the two batches have not as many rows.
        UnsupportedArchitecture: no block has separable heads.
    """
    if len(original.ids) != len(corrupted.ids):
        raise EditorError(f"{len(original.ids)} rows cannot be patched from {len(corrupted.ids)}")
    layers = [block.index for block in base.architecture.blocks if block.attention_out]
    if not layers:
        raise UnsupportedArchitecture("no block has attention heads that could be patched")
    here, there = _run(base, original, layers), _run(base, corrupted, layers)
    count, width = base.architecture.n_heads, len(original.ids)
    changes = {layer: _changes(base, layer, here, there) for layer in layers}
    shape = (len(base.architecture.blocks), count, width, tokens.shape[1])
    effects = torch.zeros(shape, dtype=here.logits.dtype)
    tokens = tokens.to(here.logits.device)
    started = here.logits.gather(1, tokens)  # [rows, tokens]
    ends = _ends(original)
    last = original.ids.gather(1, ends[:, None])  # [rows, 1]
    at_once = max(1, ROWS_AT_ONCE // width)
    variants = [(layer, head) for layer in layers for head in range(count)]
    for start in range(0, len(variants), at_once):
        part = variants[start : start + at_once]
        written = {}
        for layer in layers:
            kept = here.written[layer].expand(len(part), -1, -1).clone()  # [part, rows, hidden]
            for i, (changed, head) in enumerate(part):
                if changed == layer:
                    kept[i] += changes[layer][head]
            written[layer] = kept.flatten(0, 1)[:, None]  # [part * rows, 1, hidden]
        with _holding(base, written):
            logits = _logits(base, last.repeat(len(part), 1), ends.repeat(len(part))[:, None])
        moved = logits[:, 0].view(len(part), width, -1)
        for i, (layer, head) in enumerate(part):
            effects[layer, head] = (started - moved[i].gather(1, tokens)).cpu()
    return effects


def _ends(batch: Batch) -> torch.Tensor:
    """int64 ``[rows]``: the place of each row's last token."""
    return batch.mask.sum(1) - 1


@torch.inference_mode()
def _run(base: Base, batch: Batch, layers: list[int]) -> _Run:
    rows, ends = torch.arange(len(batch.ids), device=batch.ids.device), _ends(batch)
    heads: dict[int, torch.Tensor] = {}
    written: dict[int, torch.Tensor] = {}
    paths = {layer: _out(base, layer).path for layer in layers}

    def keeping(found: dict[int, torch.Tensor], layer: int) -> Any:
        def read(value: Any, kwargs: Any = None) -> None:
            states = value[0] if isinstance(value, tuple) else value
            found[layer] = states.view(*batch.ids.shape, -1)[rows.to(states.device), ends]

        return read

    with (
        reading_inputs(base.model, {p: keeping(heads, i) for i, p in paths.items()}),
        reading_outputs(base.model, {p: keeping(written, i) for i, p in paths.items()}),
    ):
        places = torch.arange(batch.ids.shape[1], device=batch.ids.device).expand_as(batch.ids)
        logits = _logits(base, batch.ids, places, batch.mask)
    return _Run(heads, written, logits[rows, ends])


@torch.inference_mode()
def _logits(
    base: Base, ids: torch.Tensor, places: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """``[rows, seq, vocab]``: what the vocabulary projection writes."""
    seen: list[torch.Tensor] = []
    head = base.model.get_output_embeddings()
    path = next(name for name, module in base.model.named_modules() if module is head)
    told: dict[str, Any] = {} if mask is None else {"attention_mask": mask}
    if "position_ids" in inspect.signature(base.model.forward).parameters:
        told["position_ids"] = places
    with reading_outputs(base.model, {path: seen.append}):
        base.model(input_ids=ids, use_cache=False, **told)
    return seen[0]


@contextmanager
def _holding(base: Base, written: dict[int, torch.Tensor]) -> Iterator[None]:
    """Every attention output projection writes ``written[layer]`` ``[rows, 1, hidden]``."""
    replacements: dict[str, torch.nn.Module] = {}
    for layer, value in written.items():
        path = _out(base, layer).path
        replacements[path] = _Held(base.model.get_submodule(path), value)
    with swapped(base.model, replacements):
        yield


def _changes(base: Base, layer: int, here: _Run, there: _Run) -> torch.Tensor:
    """``[heads, rows, hidden]``: what patching a head changes in what its layer writes."""
    weight = _out(base, layer).weight(base.model)  # [hidden, in]
    moved = there.heads[layer] - here.heads[layer]  # [rows, in]
    heads, width = base.architecture.n_heads, base.architecture.head_dim(layer)
    by_head = moved.view(len(moved), heads, width)
    return torch.einsum("bhd,ohd->hbo", by_head, weight.view(-1, heads, width))


def _out(base: Base, layer: int) -> Any:
    projection = base.architecture.block(layer).attention_out
    assert projection is not None
    return projection
