"""Path patching: what each attention head writes straight into the answer.

The direct effect of a head on the logits (Wang et al., arXiv 2211.00593; Goldowsky-Dill et al.,
arXiv 2304.05969), which PH3 (arXiv 2402.18154) ranks heads by: the head's output at the last prompt
token comes from a corrupted run, every other head's from the original one, MLPs and norms are
recomputed. As all heads are held, nothing but the last token can change: one token goes through the
blocks' MLPs, once for all heads. With MLPs and the final norm frozen too, what is left is linear:
direct logit attribution.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, Literal

import torch

from editors.errors import EditorError, UnsupportedArchitecture
from editors.model.architecture import Projection, vocabulary_projection
from editors.model.base_model import Base
from editors.model.hooks import StandIn, reading_inputs, reading_outputs, swapped
from editors.model.tokenization import Batch

ROWS_AT_ONCE = 4096  # single tokens in one sweep
ASTRAY = 0.1  # of a state, relative: what a single token may differ by from the whole prompt's
MISFIT = 0.02  # of a frozen norm, relative: rounding in bfloat16 stays below, another map does not

Unit = Literal["head", "group"]
"""What is patched at once: a query head, or all query heads of a key-value head."""


@dataclass(frozen=True, slots=True)
class _Run:
    """What a forward left at the last prompt token of each row.

    ``heads``: by layer ``[rows, in]``, what the attention output projection read; ``written``: by
    layer ``[rows, hidden]``, what it wrote; ``ended``: ``[rows, hidden]``, what the vocabulary
    projection would have read.
    """

    heads: dict[int, torch.Tensor]
    written: dict[int, torch.Tensor]
    ended: torch.Tensor


class _Held(StandIn):
    """Writes what it is told to, whatever it reads."""

    def __init__(self, original: torch.nn.Module, written: torch.Tensor) -> None:
        super().__init__(original)
        object.__setattr__(self, "_written", written)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._written


class _Unasked(StandIn):
    """Stands in for the vocabulary projection and keeps what it would have read.

    A few logits are wanted, and a vocabulary is most of the cost of a single token.
    """

    def __init__(self, original: torch.nn.Module, seen: list[torch.Tensor]) -> None:
        super().__init__(original)
        object.__setattr__(self, "_seen", seen)

    def forward(self, states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        self._seen.append(states)
        return states[..., :1]


def path_effects(
    base: Base,
    original: Batch,
    corrupted: Batch,
    tokens: torch.Tensor,
    unit: Unit = "head",
    held: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> torch.Tensor:
    """``[layers, units, rows, tokens]``: how much each logit loses when a head is patched.

    ``original`` and ``corrupted``: as many rows each, padded on the right, prompts only;
    ``tokens``: int64 ``[rows, tokens]``, the first tokens of answers; ``unit``: query heads, or
    key-value groups patched whole; ``held``: keeps what is attached to the base as it was for
    ``original`` while single tokens go through, their rows repeated. Layers without separable heads
    have effect 0. Logits are taken before any soft cap (PH3 section 1.7).

    Raises:
        EditorError: the two batches have not as many rows.
        UnsupportedArchitecture: no block has separable heads, or a block mixes tokens in another
            way too (convolution, recurrence), so that single tokens do not stand for the prompt.
    """
    here, changes = _patches(base, original, corrupted, unit)
    wanted = _directions(base, tokens)  # [rows, tokens, hidden]
    effects = _nothing(base, wanted, tokens, unit)
    units, rows = effects.shape[1:3]
    ends = _ends(original)
    last = original.ids.gather(1, ends[:, None])  # [rows, 1]
    at_once = max(1, ROWS_AT_ONCE // rows - 1)
    variants = [(layer, number) for layer in changes for number in range(units)]
    for start in range(0, len(variants), at_once):
        part = variants[start : start + at_once]
        # Nothing is patched in the first variant: what the others lose is rounded as they are.
        sweep = 1 + len(part)
        written = {}
        for layer in changes:
            kept = here.written[layer].expand(sweep, -1, -1).clone()  # [sweep, rows, hidden]
            for i, (changed, number) in enumerate(part, start=1):
                if changed == layer:
                    kept[i] += changes[layer][number]
            written[layer] = kept.flatten(0, 1)[:, None]  # [sweep * rows, 1, hidden]
        with _holding(base, written), held():
            states = _states(base, last.repeat(sweep, 1), ends.repeat(sweep)[:, None])
        ended = states[:, 0].view(sweep, rows, -1).to(wanted.device)  # [sweep, rows, hidden]
        _require_same(ended[0], here.ended.to(wanted.device))
        found = torch.einsum("sbd,btd->sbt", ended, wanted)
        for i, (layer, number) in enumerate(part, start=1):
            effects[layer, number] = (found[0] - found[i]).cpu()
    return effects


def _require_same(alone: torch.Tensor, in_prompt: torch.Tensor) -> None:
    """Raises UnsupportedArchitecture where ``[rows, hidden]`` differ by more than rounding."""
    if bool((alone - in_prompt).norm() > ASTRAY * in_prompt.norm()):
        raise UnsupportedArchitecture(
            "some blocks mix tokens by other means than attention heads, so path patching cannot "
            "hold all that a prompt's last token reads"
        )


def direct_effects(
    base: Base, original: Batch, corrupted: Batch, tokens: torch.Tensor, unit: Unit = "head"
) -> torch.Tensor:
    """``[layers, units, rows, tokens]``: as ``path_effects``, with MLPs and final norm frozen.

    Direct logit attribution of what patching changes (PH3 section 1.7): linear, so the effects of
    all heads add up to the effect of patching them together, and those of a group's heads to the
    group's.

    Raises:
        EditorError, UnsupportedArchitecture: as ``path_effects``.
        UnsupportedArchitecture: a block does more with what its heads write than to add it, as
            where a norm follows the attention, or no norm is right before the vocabulary.
    """
    path = _final_norm(base, original.ids[:1, :1])
    read: list[torch.Tensor] = []
    with reading_inputs(base.model, {path: lambda args, _: read.append(args[0])}):
        _, changes = _patches(base, original, corrupted, unit)
    states = _at_ends(original, read[-1])  # [rows, hidden]
    frozen = _frozen(base.model.get_submodule(path), states)
    wanted = _directions(base, tokens)  # [rows, tokens, hidden]
    effects = _nothing(base, wanted, tokens, unit)
    for layer, change in changes.items():
        moved = frozen(change.to(states.device)).to(wanted.device)  # [units, rows, hidden]
        effects[layer] = -torch.einsum("ubd,btd->ubt", moved, wanted).cpu()
    return effects


def _patches(
    base: Base, original: Batch, corrupted: Batch, unit: Unit
) -> tuple[_Run, dict[int, torch.Tensor]]:
    """The original run and, by layer, ``_changes``."""
    if len(original.ids) != len(corrupted.ids):
        raise EditorError(f"{len(original.ids)} rows cannot be patched from {len(corrupted.ids)}")
    layers = [block.index for block in base.architecture.blocks if block.attention_out]
    if not layers:
        raise UnsupportedArchitecture("no block has attention heads that could be patched")
    # The original run comes last: what is attached is then held as it was for these rows.
    there, here = _run(base, corrupted, layers), _run(base, original, layers)
    return here, {layer: _changes(base, layer, here, there, unit) for layer in layers}


def _directions(base: Base, tokens: torch.Tensor) -> torch.Tensor:
    """``[rows, tokens, hidden]``: what each logit is read off along; a bias loses nothing."""
    head = Projection.at(base.model, vocabulary_projection(base.model))
    vocabulary = head.weight(base.model)  # [vocab, hidden]
    return vocabulary[tokens.to(vocabulary.device)]


def _nothing(base: Base, like: torch.Tensor, tokens: torch.Tensor, unit: Unit) -> torch.Tensor:
    """Zeros ``[layers, units, rows, tokens]``."""
    shape = (len(base.architecture.blocks), _units(base, unit), *tokens.shape)
    return torch.zeros(shape, dtype=like.dtype)


def _units(base: Base, unit: Unit) -> int:
    return base.architecture.n_heads if unit == "head" else base.architecture.n_kv_heads


def _ends(batch: Batch) -> torch.Tensor:
    """int64 ``[rows]``: the place of each row's last token."""
    return batch.mask.sum(1) - 1


@torch.inference_mode()
def _run(base: Base, batch: Batch, layers: list[int]) -> _Run:
    heads: dict[int, torch.Tensor] = {}
    written: dict[int, torch.Tensor] = {}
    paths = {layer: _out(base, layer).path for layer in layers}

    def keeping(found: dict[int, torch.Tensor], layer: int) -> Any:
        def read(value: Any, kwargs: Any = None) -> None:
            states = value[0] if isinstance(value, tuple) else value
            # A router's look at some of the prompts has another shape, or comes before.
            if states.numel() == batch.ids.numel() * states.shape[-1]:
                found[layer] = _at_ends(batch, states)

        return read

    with (
        reading_inputs(base.model, {p: keeping(heads, i) for i, p in paths.items()}),
        reading_outputs(base.model, {p: keeping(written, i) for i, p in paths.items()}),
    ):
        places = torch.arange(batch.ids.shape[1], device=batch.ids.device).expand_as(batch.ids)
        whole = _states(base, batch.ids, places, batch.mask)
    return _Run(heads, written, _at_ends(batch, whole))


def _at_ends(batch: Batch, states: torch.Tensor) -> torch.Tensor:
    """``[rows, size]``: at each row's last token; some blocks flatten ``states`` to two axes."""
    ends = _ends(batch).to(states.device)
    rows = torch.arange(len(ends), device=states.device)
    return states.view(*batch.ids.shape, -1)[rows, ends]


def _states(
    base: Base, ids: torch.Tensor, places: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """``[rows, seq, hidden]``: what the vocabulary projection would read."""
    seen: list[torch.Tensor] = []
    path = vocabulary_projection(base.model)
    with swapped(base.model, {path: _Unasked(base.model.get_submodule(path), seen)}):
        _forward(base, ids, places, mask)
    return seen[0]


@torch.inference_mode()
def _forward(
    base: Base, ids: torch.Tensor, places: torch.Tensor, mask: torch.Tensor | None = None
) -> None:
    told: dict[str, Any] = {} if mask is None else {"attention_mask": mask}
    if "position_ids" in inspect.signature(base.model.forward).parameters:
        told["position_ids"] = places
    base.model(input_ids=ids, use_cache=False, **told)


@contextmanager
def _holding(base: Base, written: dict[int, torch.Tensor]) -> Iterator[None]:
    """Every attention output projection writes ``written[layer]`` ``[rows, 1, hidden]``."""
    replacements: dict[str, torch.nn.Module] = {}
    for layer, value in written.items():
        path = _out(base, layer).path
        replacements[path] = _Held(base.model.get_submodule(path), value)
    with swapped(base.model, replacements):
        yield


def _changes(base: Base, layer: int, here: _Run, there: _Run, unit: Unit) -> torch.Tensor:
    """``[units, rows, hidden]``: what patching a head changes in what its layer writes."""
    weight = _out(base, layer).weight(base.model)  # [hidden, in]
    moved = there.heads[layer] - here.heads[layer]  # [rows, in]
    units = _units(base, unit)  # the heads of a group lie side by side
    by_unit = moved.view(len(moved), units, -1)
    return torch.einsum("bud,oud->ubo", by_unit, weight.view(len(weight), units, -1))


@torch.inference_mode()
def _final_norm(base: Base, ids: torch.Tensor) -> str:
    """The path of the module that writes what the vocabulary projection reads.

    ``ids``: int64 ``[1, 1]``, one token to find it with, and to see that from each block to the
    next the residual stream gains what the heads wrote and what one more module did (the MLP).
    Raises UnsupportedArchitecture.
    """
    read: dict[str, torch.Tensor] = {}
    wrote: dict[str, torch.Tensor] = {}

    def keeping(found: dict[str, torch.Tensor], path: str) -> Any:
        def keep(value: Any, kwargs: Any = None) -> None:
            states = value[0] if isinstance(value, tuple) and value else value
            if isinstance(states, torch.Tensor):  # a copy: some blocks add in place
                found[path] = states.to("cpu", torch.float64, copy=True).flatten()

        return keep

    paths = [path for path, _ in base.model.named_modules() if path]
    with (
        reading_inputs(base.model, {path: keeping(read, path) for path in paths}),
        reading_outputs(base.model, {path: keeping(wrote, path) for path in paths}),
    ):
        _forward(base, ids, torch.zeros_like(ids))
    last = read[vocabulary_projection(base.model)]
    norm = next((path for path in wrote if path in read and wrote[path].equal(last)), None)
    if norm is None:
        raise UnsupportedArchitecture(
            "no module writes what the vocabulary projection reads, so no final norm can be frozen"
        )
    blocks = base.architecture.blocks
    stream = [*(read[block.path] for block in blocks), read[norm]]
    for block, (before, after) in zip(blocks, pairwise(stream), strict=True):
        inside = [v for path, v in wrote.items() if path.startswith(f"{block.path}.")]
        rest = [v for v in inside if v.shape == before.shape]
        heads = [wrote[block.attention_out.path]] if block.attention_out else rest
        pairs = product(heads, [*rest, torch.zeros_like(before)])
        if not any(_is_sum(base, after, (before, *pair)) for pair in pairs):
            raise UnsupportedArchitecture(
                f"{block.path} does more with what its heads write than to add it to the residual "
                "stream, so their direct effects are not defined; path effects are"
            )
    return norm


def _is_sum(base: Base, total: torch.Tensor, parts: tuple[torch.Tensor, ...]) -> bool:
    """Up to the rounding of as many additions, whatever the order."""
    if any(part.shape != total.shape for part in parts):
        return False
    added = torch.stack(parts)
    slack = 2 * len(parts) * torch.finfo(base.model.dtype).eps * added.abs().sum(0)
    return bool(((added.sum(0) - total).abs() <= slack).all())


@torch.inference_mode()
def _frozen(norm: torch.nn.Module, states: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """What the norm makes of changes ``[..., rows, hidden]`` if its scale stays as at ``states``.

    ``states``: ``[rows, hidden]``. Whether the norm centres, its bias and its gain are read from
    what it does to three inputs, its scale from ``states``; raises UnsupportedArchitecture where
    that does not explain what it does to ``states``.
    """
    probes = torch.ones(3, 1, states.shape[1], dtype=states.dtype, device=states.device)
    probes[0], probes[2, :, 1::2] = 0.0, -1.0
    bias, ones, signs = norm(probes)[:, 0]  # [hidden] each
    centring = bool((ones - bias).norm() < 0.1 * (signs - bias).norm())

    def centred(x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(-1, keepdim=True) if centring else x

    gain = (signs - bias) / centred(probes[2, 0])
    unscaled, found = gain * centred(states), norm(states[:, None])[:, 0] - bias  # [rows, hidden]
    scale = (unscaled * found).sum(-1, keepdim=True) / unscaled.square().sum(-1, keepdim=True)
    if bool((scale * unscaled - found).norm() > MISFIT * found.norm()):
        raise UnsupportedArchitecture(
            f"the {type(norm).__name__} before the vocabulary projection is no norm to be frozen"
        )
    return lambda change: scale * gain * centred(change)


def _out(base: Base, layer: int) -> Any:
    projection = base.architecture.block(layer).attention_out
    assert projection is not None
    return projection
