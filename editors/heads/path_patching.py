"""Path patching: what each attention head writes straight into the answer.

The direct effect of a head on the logits (Wang et al., arXiv 2211.00593; Goldowsky-Dill et al.,
arXiv 2304.05969), which PH3 (arXiv 2402.18154) ranks heads by. The head's output at the last prompt
token comes from a corrupted run, every other head's from the original run, and MLPs and norms are
recomputed. As all heads are held, only the last token can change. So one token goes through the
MLPs of the blocks, once for all heads. With MLPs and the final norm frozen too, what is left is
linear: direct logit attribution (:mod:`editors.heads.logit_attribution`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from editors.errors import EditorError, UnsupportedArchitecture
from editors.heads.head_mask import attention_out
from editors.inference.edited_model import EditedModel
from editors.model.architecture import vocabulary_projection
from editors.model.base_model import Base, is_probing
from editors.model.hooks import StandIn, reading_inputs, reading_outputs, swapped
from editors.model.projection import Projection
from editors.model.tokenization import Batch

ROWS_AT_ONCE = 4096  # single tokens in one sweep
TOLERANCE = 0.1  # of a state, relative: what a single token may differ by from the whole prompt's

Unit = Literal["head", "group"]
"""What is patched at once: a query head, or all query heads of a key-value head."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a forward left at the last prompt token of each row.

    ``head_outputs``: by layer ``[rows, in]``, what the attention output projection read;
    ``attn_out``: by layer ``[rows, hidden]``, what it wrote; ``final_hidden``: ``[rows, hidden]``,
    what the vocabulary projection would have read.
    """

    head_outputs: dict[int, torch.Tensor]
    attn_out: dict[int, torch.Tensor]
    final_hidden: torch.Tensor


def path_effects(
    model: EditedModel,
    original: Batch,
    corrupted: Batch,
    tokens: torch.Tensor,
    unit: Unit = "head",
) -> torch.Tensor:
    """``[layers, units, rows, tokens]``: what each logit loses when a head is patched.

    In float32, whatever the base computes in, or in float64 where it computes in that.
    ``model``: the base with whatever is attached to it. ``original`` and ``corrupted``: as many
    rows each, padded on the right, prompts only; ``tokens``: int64 ``[rows, tokens]``, the first
    tokens of answers; ``unit``: query heads, or key-value groups patched whole. Layers without
    separable heads have effect 0. Logits are taken before any soft cap.

    Raises:
        EditorError: the two batches have not as many rows.
        UnsupportedArchitecture: no block has separable heads, or a block also mixes tokens in
            another way (convolution, recurrence), so that a single token does not stand for its
            prompt.
    """
    base = model.base
    layers = _layers(base)
    _require_equal(original, corrupted)
    there = run(base, corrupted, layers)
    with model.noting() as calls:
        here = run(base, original, layers)
    changes = {layer: patched_change(base, layer, here, there, unit) for layer in layers}
    directions = logit_directions(base, tokens)  # [rows, tokens, hidden]
    effects = no_effects(base, tokens, unit)
    units, rows = effects.shape[1:3]
    ends = last_columns(original)
    last = original.ids.gather(1, ends[:, None])  # [rows, 1]
    at_once = max(1, ROWS_AT_ONCE // rows - 1)
    variants = [(layer, number) for layer in changes for number in range(units)]
    for start in range(0, len(variants), at_once):
        part = variants[start : start + at_once]
        # Nothing is patched in the first variant: what the others lose is rounded as they are.
        sweep = 1 + len(part)
        written = {}
        for layer in changes:
            attn_out = here.attn_out[layer].expand(sweep, -1, -1).clone()  # [sweep, rows, hidden]
            for i, (changed, number) in enumerate(part, start=1):
                if changed == layer:
                    attn_out[i] += changes[layer][number]
            written[layer] = attn_out.flatten(0, 1)[:, None]  # [sweep * rows, 1, hidden]
        with _writing(base, written), model.continuing(calls[0] if calls else None):
            states = final_hidden(base, last.repeat(sweep, 1), ends.repeat(sweep)[:, None])
        states = states[:, 0].view(sweep, rows, -1).to(directions)
        _require_same(states[0], here.final_hidden.to(directions))
        logits = torch.einsum("sbd,btd->sbt", states, directions)
        for i, (layer, number) in enumerate(part, start=1):
            effects[layer, number] = (logits[0] - logits[i]).cpu()
    return effects


def _require_equal(original: Batch, corrupted: Batch) -> None:
    if len(original.ids) != len(corrupted.ids):
        raise EditorError(f"{len(original.ids)} rows cannot be patched from {len(corrupted.ids)}")


def _require_same(alone: torch.Tensor, in_prompt: torch.Tensor) -> None:
    """Raises UnsupportedArchitecture where ``[rows, hidden]`` differ by more than rounding."""
    if bool((alone - in_prompt).norm() > TOLERANCE * in_prompt.norm()):
        raise UnsupportedArchitecture(
            "some blocks mix tokens by other means than attention heads, so path patching cannot "
            "hold all that a prompt's last token reads"
        )


# --- what direct logit attribution shares ---------------------------------------------------------


def runs(base: Base, original: Batch, corrupted: Batch) -> tuple[Run, Run]:
    """The original and the corrupted run.

    Raises:
        EditorError: the two batches have not as many rows.
        UnsupportedArchitecture: no block has separable heads.
    """
    _require_equal(original, corrupted)
    layers = _layers(base)
    there = run(base, corrupted, layers)
    return run(base, original, layers), there


def _layers(base: Base) -> list[int]:
    layers = [block.index for block in base.architecture.blocks if block.attention_out]
    if not layers:
        raise UnsupportedArchitecture("no block has attention heads that could be patched")
    return layers


@torch.inference_mode()
def run(base: Base, batch: Batch, layers: list[int]) -> Run:
    """One forward over prompts, and what it left at their ends."""
    head_outputs: dict[int, torch.Tensor] = {}
    attn_out: dict[int, torch.Tensor] = {}
    paths = {layer: attention_out(base, layer).path for layer in layers}

    def keeping(found: dict[int, torch.Tensor], layer: int) -> Any:
        def read(value: Any, kwargs: Any = None) -> None:
            if not is_probing():  # a router may look at some of the prompts meanwhile
                states = value[0] if isinstance(value, tuple) else value
                found[layer] = at_ends(batch, states)

        return read

    with (
        reading_inputs(base.model, {p: keeping(head_outputs, i) for i, p in paths.items()}),
        reading_outputs(base.model, {p: keeping(attn_out, i) for i, p in paths.items()}),
    ):
        columns = torch.arange(batch.ids.shape[1], device=batch.ids.device).expand_as(batch.ids)
        whole = final_hidden(base, batch.ids, columns, batch.mask)
    return Run(head_outputs, attn_out, at_ends(batch, whole))


def logit_directions(base: Base, tokens: torch.Tensor) -> torch.Tensor:
    """``[rows, tokens, hidden]``, at least float32: what each logit is read off along; a bias
    loses nothing."""
    head = Projection.at(base.model, vocabulary_projection(base.model))
    vocabulary = head.weight(base.model)  # [vocab, hidden]
    directions = vocabulary[tokens.to(vocabulary.device)]
    return directions.to(_precise(directions.dtype))


def no_effects(base: Base, tokens: torch.Tensor, unit: Unit) -> torch.Tensor:
    """Zeros ``[layers, units, rows, tokens]``, at least float32."""
    shape = (len(base.architecture.blocks), _units(base, unit), *tokens.shape)
    return torch.zeros(shape, dtype=_precise(base.model.dtype))


def _precise(dtype: torch.dtype) -> torch.dtype:
    """What effects are computed in: differences of logits are small."""
    return torch.promote_types(dtype, torch.float32)


def _units(base: Base, unit: Unit) -> int:
    return base.architecture.n_heads if unit == "head" else base.architecture.n_kv_heads


def patched_change(base: Base, layer: int, here: Run, there: Run, unit: Unit) -> torch.Tensor:
    """``[units, rows, hidden]``: what patching each unit changes in what its layer writes."""
    weight = attention_out(base, layer).weight(base.model)  # [hidden, in]
    moved = there.head_outputs[layer] - here.head_outputs[layer]  # [rows, in]
    units = _units(base, unit)  # the heads of a group lie side by side
    by_unit = moved.view(len(moved), units, -1)
    return torch.einsum("bud,oud->ubo", by_unit, weight.view(len(weight), units, -1))


def last_columns(batch: Batch) -> torch.Tensor:
    """int64 ``[rows]``: the column of each row's last token."""
    return batch.mask.sum(1) - 1


def at_ends(batch: Batch, states: torch.Tensor) -> torch.Tensor:
    """``[rows, size]``: at each row's last token; some blocks flatten ``states`` to two axes."""
    ends = last_columns(batch).to(states.device)
    rows = torch.arange(len(ends), device=states.device)
    return states.view(*batch.ids.shape, -1)[rows, ends]


def final_hidden(
    base: Base, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """``[rows, seq, hidden]``: what the vocabulary projection would read; it does not run."""
    seen: list[torch.Tensor] = []
    path = vocabulary_projection(base.model)
    with swapped(base.model, {path: _CaptureFinalHidden(base.model.get_submodule(path), seen)}):
        forward(base, ids, positions, mask)
    return seen[-1]  # a router's own forwards come before


@torch.inference_mode()
def forward(
    base: Base, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None = None
) -> None:
    """Run the model on tokens at these ``positions``, for whoever reads it."""
    more: dict[str, Any] = {} if mask is None else {"attention_mask": mask}
    if "position_ids" in inspect.signature(base.model.forward).parameters:
        more["position_ids"] = positions
    base.model(input_ids=ids, use_cache=False, **more)


class _CaptureFinalHidden(StandIn):
    """Stands in for the vocabulary projection and keeps its input.

    Only a few logits are needed, and the full projection would dominate the cost of one token.
    """

    def __init__(self, original: torch.nn.Module, seen: list[torch.Tensor]) -> None:
        super().__init__(original)
        object.__setattr__(self, "_seen", seen)

    def forward(self, states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        self._seen.append(states)
        return states[..., :1]


class _ConstantOutput(StandIn):
    """Writes the same output whatever it reads."""

    def __init__(self, original: torch.nn.Module, output: torch.Tensor) -> None:
        super().__init__(original)
        object.__setattr__(self, "_output", output)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._output


@contextmanager
def _writing(base: Base, written: dict[int, torch.Tensor]) -> Iterator[None]:
    """Every attention output projection writes ``written[layer]`` ``[rows, 1, hidden]``."""
    outputs: dict[str, torch.nn.Module] = {}
    for layer, value in written.items():
        path = attention_out(base, layer).path
        outputs[path] = _ConstantOutput(base.model.get_submodule(path), value)
    with swapped(base.model, outputs):
        yield
