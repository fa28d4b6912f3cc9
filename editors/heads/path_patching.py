"""Path patching: the direct effect of each attention head on the logits of an answer.

Wang et al., arXiv 2211.00593; Goldowsky-Dill et al., arXiv 2304.05969. PH3 (arXiv 2402.18154) ranks
heads by this effect. The output of one head at the last prompt token comes from a corrupted run,
the outputs of all other heads come from the original run, and MLPs and norms are recomputed. As the
outputs of all heads are fixed, only the last token can change. So it is enough to run a single
token through the model, and all heads share such forwards. Each begins at the block of its first
head. If MLPs and the final norm are frozen too, the rest is linear
(:mod:`editors.heads.logit_attribution`).
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch

from editors.errors import EditorError, UnsupportedArchitecture
from editors.heads.head_mask import attention_out
from editors.inference.block_replay import BlockInputs, can_replay
from editors.inference.edited_model import EditedModel
from editors.model import hooks
from editors.model.architecture import vocabulary_projection
from editors.model.base_model import Base, is_probing
from editors.model.projection import Projection
from editors.model.tokenization import Batch

ROWS_AT_ONCE = 1024  # single tokens in one forward; with fewer, more forwards begin higher up
TOLERANCE = 0.1  # the relative difference allowed between a single token and the whole prompt

Unit = Literal["head", "group"]
"""What is patched together: one query head, or the group of query heads of a key-value head."""


@dataclass(frozen=True, slots=True)
class Run:
    """The states of a forward at the last prompt token of each row.

    ``head_outputs``: by layer ``[rows, in]``, the input of the attention output projection;
    ``attn_out``: by layer ``[rows, hidden]``, its output; ``final_hidden``: ``[rows, hidden]``, the
    input of the vocabulary projection.
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
    """``[layers, units, rows, tokens]``: the loss of each logit when a unit is patched.

    The dtype is float32, or float64 if the base computes in float64. ``model``: the base with
    everything that is attached to it. ``original`` and ``corrupted``: prompts without targets,
    padded on the right, with equal numbers of rows. ``tokens``: int64 ``[rows, tokens]``, the ids
    whose logits are measured. ``unit``: query heads, or whole key-value groups. Layers without
    separable heads have effect 0. Logits are taken before any soft cap.

    Raises:
        EditorError: the two batches have different numbers of rows.
        UnsupportedArchitecture: no block has separable heads; or a block also mixes tokens in
            another way (convolution, recurrence), so that a single token cannot replace its prompt.
    """
    base = model.base
    with model.noting() as calls:
        original_run, corrupted_run = runs(base, original, corrupted)
    changes = {
        layer: patched_change(base, layer, original_run, corrupted_run, unit)
        for layer in original_run.head_outputs
    }
    directions = logit_directions(base, tokens)  # [rows, tokens, hidden]
    effects = no_effects(base, tokens, unit)
    units, rows = effects.shape[1:3]
    ends = original.prompt_lengths - 1  # the columns of the last tokens
    last_tokens = original.ids.gather(1, ends[:, None])  # [rows, 1]
    at_once = max(1, ROWS_AT_ONCE // rows - 1)
    variants = [(layer, number) for layer in changes for number in range(units)]
    sweeps = [variants[start : start + at_once] for start in range(0, len(variants), at_once)]
    firsts = [patched[0][0] for patched in sweeps]  # the first changed layer of each sweep
    replayed = len(sweeps) > 1 and can_replay(base)
    inputs = BlockInputs(base, tuple({*firsts} - {0}) if replayed else (), rows)
    for patched, first in zip(sweeps, firsts, strict=True):
        # The first variant is not patched: the reference has the same rounding as the others.
        sweep = 1 + len(patched)
        # The reference is the same in all sweeps; the first one keeps its states for the others.
        last = len(base.architecture.blocks) if patched is sweeps[0] else first
        written: dict[str, torch.nn.Module] = {}
        for layer, plain in original_run.attn_out.items():
            outputs = plain.expand(sweep, -1, -1).clone()  # [sweep, rows, hidden]
            for i, (changed, number) in enumerate(patched, start=1):
                if changed == layer:
                    outputs[i] += changes[layer][number]
            path = attention_out(base, layer).path
            module = base.model.get_submodule(path)
            written[path] = _ConstantOutput(module, outputs.flatten(0, 1)[:, None])
        # The last call is that of the original run.
        with (
            hooks.swapped(base.model, written),
            model.continuing(calls[-1] if calls else None),
            inputs.known_up_to(last),
        ):
            states = final_hidden(base, last_tokens.repeat(sweep, 1), ends.repeat(sweep)[:, None])
        states = states[:, 0].view(sweep, rows, -1).to(directions)
        _require_same(states[0], original_run.final_hidden.to(directions))
        logits = torch.einsum("sbd,btd->sbt", states, directions)
        for i, (layer, number) in enumerate(patched, start=1):
            effects[layer, number] = (logits[0] - logits[i]).cpu()
    return effects


def _require_same(alone: torch.Tensor, in_prompt: torch.Tensor) -> None:
    """Raise UnsupportedArchitecture if the states ``[rows, hidden]`` of a token alone and in its
    prompt differ by more than rounding."""
    if bool((alone - in_prompt).norm() > TOLERANCE * in_prompt.norm()):
        raise UnsupportedArchitecture(
            "some blocks mix tokens by other means than attention heads, so path patching cannot "
            "hold all that a prompt's last token reads"
        )


# --- shared with direct logit attribution ---------------------------------------------------------


def runs(base: Base, original: Batch, corrupted: Batch) -> tuple[Run, Run]:
    """The original and the corrupted run. The original comes last.

    Raises:
        EditorError: the two batches have different numbers of rows.
        UnsupportedArchitecture: no block has separable heads.
    """
    if len(original.ids) != len(corrupted.ids):
        raise EditorError(f"{len(original.ids)} rows cannot be patched from {len(corrupted.ids)}")
    layers = [block.index for block in base.architecture.blocks if block.attention_out]
    if not layers:
        raise UnsupportedArchitecture("no block has attention heads that could be patched")
    corrupted_run = run(base, corrupted, layers)
    return run(base, original, layers), corrupted_run


@torch.inference_mode()
def run(base: Base, batch: Batch, layers: list[int]) -> Run:
    """Run the model on prompts, and keep the states at their last tokens."""
    head_outputs: dict[int, torch.Tensor] = {}
    attn_out: dict[int, torch.Tensor] = {}
    paths = {layer: attention_out(base, layer).path for layer in layers}

    def keeping(states_by_layer: dict[int, torch.Tensor], layer: int) -> Any:
        def read(value: Any, kwargs: Any = None) -> None:
            if not is_probing():  # a router may run forwards meanwhile
                states_by_layer[layer] = at_ends(batch, hooks.hidden_of(value))

        return read

    with (
        hooks.reading_inputs(base.model, {p: keeping(head_outputs, i) for i, p in paths.items()}),
        hooks.reading_outputs(base.model, {p: keeping(attn_out, i) for i, p in paths.items()}),
    ):
        columns = torch.arange(batch.ids.shape[1], device=batch.ids.device).expand_as(batch.ids)
        final_states = final_hidden(base, batch.ids, columns, batch.mask)
    return Run(head_outputs, attn_out, at_ends(batch, final_states))


def logit_directions(base: Base, tokens: torch.Tensor) -> torch.Tensor:
    """``[rows, tokens, hidden]``, at least float32: the weights of each logit in the vocabulary
    projection. Its bias is left out, as patching cannot change it."""
    projection = Projection.at(base.model, vocabulary_projection(base.model))
    vocabulary = projection.weight(base.model)  # [vocab, hidden]
    directions = vocabulary[tokens.to(vocabulary.device)]
    return directions.to(_precise(directions.dtype))


def no_effects(base: Base, tokens: torch.Tensor, unit: Unit) -> torch.Tensor:
    """Zeros ``[layers, units, rows, tokens]``, at least float32."""
    shape = (len(base.architecture.blocks), _units(base, unit), *tokens.shape)
    return torch.zeros(shape, dtype=_precise(base.model.dtype))


def _precise(dtype: torch.dtype) -> torch.dtype:
    """The dtype of effects: at least float32, as differences of logits are small."""
    return torch.promote_types(dtype, torch.float32)


def _units(base: Base, unit: Unit) -> int:
    return base.architecture.n_heads if unit == "head" else base.architecture.n_kv_heads


def patched_change(
    base: Base, layer: int, original_run: Run, corrupted_run: Run, unit: Unit
) -> torch.Tensor:
    """``[units, rows, hidden]``: the change of the attention output of ``layer`` when each unit is
    patched."""
    weight = attention_out(base, layer).weight(base.model)  # [hidden, in]
    change = corrupted_run.head_outputs[layer] - original_run.head_outputs[layer]  # [rows, in]
    units = _units(base, unit)  # the heads of a group lie side by side
    by_unit = change.view(len(change), units, -1)
    return torch.einsum("bud,oud->ubo", by_unit, weight.view(len(weight), units, -1))


def at_ends(batch: Batch, states: torch.Tensor) -> torch.Tensor:
    """``[rows, size]``: ``states`` at the last token of each row.

    ``states``: ``[rows, seq, size]``, or ``[rows * seq, size]`` if a block flattens its rows.
    """
    ends = batch.prompt_lengths.to(states.device) - 1
    rows = torch.arange(len(ends), device=states.device)
    return states.view(*batch.ids.shape, -1)[rows, ends]


def final_hidden(
    base: Base, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """``[rows, seq, hidden]``: the input of the vocabulary projection, which does not run: only a
    few logits are needed, and it would take most of the time of a token."""
    inputs: list[torch.Tensor] = []

    def read(args: tuple[Any, ...], _: dict[str, Any]) -> None:
        if not is_probing():  # a router may run forwards meanwhile
            inputs.append(args[0])
            hooks.stop_forward()

    path = vocabulary_projection(base.model)
    with hooks.reading_inputs(base.model, {path: read}), hooks.stopping_early():
        forward(base, ids, positions, mask)
    return inputs[0]


@torch.inference_mode()
def forward(
    base: Base, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None = None
) -> None:
    """Run the model on ``ids`` ``[rows, seq]`` at ``positions`` ``[rows, seq]``, for its
    readers."""
    takes_positions = "position_ids" in inspect.signature(base.model.forward).parameters
    optional = {"position_ids": positions} if takes_positions else {}
    base.model(input_ids=ids, attention_mask=mask, use_cache=False, **optional)


class _ConstantOutput(hooks.StandIn):
    """Returns the same output for every input."""

    def __init__(self, original: torch.nn.Module, output: torch.Tensor) -> None:
        super().__init__(original, _output=output)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._output
