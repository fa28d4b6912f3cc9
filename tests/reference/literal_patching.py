"""Path patching written plainly, to compare the library's with: one whole forward for each head.

Row by row, every attention output projection reads what it read in the original run, at every
position, but for the patched heads at the last position, which come from the corrupted run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def runs(model: Any, paths: Sequence[str], ids: Sequence[int]) -> tuple[list[Any], torch.Tensor]:
    """What each projection reads ``[seq, in]``, and the logits ``[vocab]`` after the last token."""
    inputs: list[Any] = []
    handles = [
        model.get_submodule(path).register_forward_pre_hook(
            lambda _, args: inputs.append(args[0].detach().reshape(len(ids), -1).clone())
        )
        for path in paths
    ]
    logits = last_logits(model, ids)
    for handle in handles:
        handle.remove()
    return inputs, logits


def last_logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """``[vocab]``: what the vocabulary projection writes at the last token."""
    seen: list[torch.Tensor] = []
    handle = model.get_output_embeddings().register_forward_hook(
        lambda _, args, out: seen.append(out.detach())
    )
    with torch.no_grad():
        model(input_ids=torch.tensor([list(ids)]), use_cache=False)
    handle.remove()
    return seen[0][0, -1]


def effect(
    model: Any,
    paths: Sequence[str],
    patched: Mapping[int, slice],
    original: Sequence[int],
    corrupted: Sequence[int],
    mlps: Sequence[str] = (),
    norm: str | None = None,
) -> torch.Tensor:
    """``[vocab]``: what all logits lose when the heads at ``patched`` features, by layer, are.

    ``mlps``: what these modules wrote in the original run they write again; ``norm`` goes on
    scaling as it did there.
    """
    frozen: dict[str, Any] = {}
    handles = [
        model.get_submodule(path).register_forward_hook(
            lambda _, args, out, path=path: frozen.update({path: (args[0].clone(), out.clone())})
        )
        for path in (*mlps, *([norm] if norm else []))
    ]
    original_inputs, before = runs(model, paths, original)
    for handle in handles:
        handle.remove()
    corrupted_inputs, _ = runs(model, paths, corrupted)

    handles = []
    for number, path in enumerate(paths):
        forced = original_inputs[number].clone()
        if number in patched:
            forced[-1, patched[number]] = corrupted_inputs[number][-1, patched[number]]

        def force(_: Any, args: Any, forced: torch.Tensor = forced) -> Any:
            return (forced.view_as(args[0]), *args[1:])

        handles.append(model.get_submodule(path).register_forward_pre_hook(force))
    for path in mlps:
        written = frozen[path][1]
        handles.append(
            model.get_submodule(path).register_forward_hook(lambda *_, written=written: written)
        )
    if norm:
        states = frozen[norm][0]

        def rescale(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
            bias = 0.0 if getattr(module, "bias", None) is None else module.bias
            return bias + (out - bias) * spread(module, args[0]) / spread(module, states)

        handles.append(model.get_submodule(norm).register_forward_hook(rescale))
    after = last_logits(model, original)
    for handle in handles:
        handle.remove()
    return before - after


def spread(norm: Any, states: torch.Tensor) -> torch.Tensor:
    """``[..., 1]``: what the norm divides ``states`` by."""
    values = states - states.mean(-1, keepdim=True) if centres(norm) else states
    sizes = [getattr(norm, name) for name in ("eps", "variance_epsilon") if hasattr(norm, name)]
    return (values.square().mean(-1, keepdim=True) + sizes[0]).sqrt()


def centres(norm: Any) -> bool:
    """The norm takes the mean away."""
    return "LayerNorm" in type(norm).__name__
