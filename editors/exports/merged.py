"""Plain weights: a checkpoint of the base's own class, with the edits and the pruned heads in it.

Edits that are always on and heads that are pruned everywhere are exact but for rounding. Routed
edits are not: what answered some prompts only then changes every prompt. All side memories become
one change by TIES (arXiv 2306.01708), and what that costs has to be measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from editors.errors import EditorError
from editors.heads.head_mask import attention_out
from editors.heads.pruning import HeadMask
from editors.inference.edited_model import EditedModel
from editors.methods.base import Method
from editors.methods.edit_state import EditState
from editors.model.base_model import Base


@contextmanager
def merged(method: Method[Any, Any], state: EditState) -> Iterator[EditedModel]:
    """Inside ``with``, the base with weights that hold ``state``, a loaded state of ``method``.
    After it, the base is as before.

    Raises:
        EditorError: the method changes no weights, or heads are pruned at the end of prompts only,
            or towards a mean in a projection without a bias.
        UnsupportedArchitecture: the weights are quantised.
    """
    base = method.base
    mask = state.pruning.mask if state.pruning else HeadMask()
    projections = {projection.path: projection for projection in method.edited_projections()}
    changed = [
        (projections[path].weight(base.model), change)
        for path, change in method.always_on(state).items()
    ]
    changed += _of_heads(base, mask)
    before = [parameter.clone() for parameter, _ in changed]
    try:
        with torch.no_grad():
            for parameter, change in changed:
                parameter.add_(change.to(parameter))
        yield EditedModel.unedited(base)
    finally:
        # In reverse, as one parameter may have been changed twice.
        for (parameter, _), value in reversed([*zip(changed, before, strict=True)]):
            parameter.copy_(value)


def _of_heads(base: Base, mask: HeadMask) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The parameters that pruning changes, each with its change."""
    if mask.heads and mask.at != "all":
        raise EditorError(
            "heads are pruned at the end of prompts only, which plain weights cannot do",
            "`--as adapter` or `--as remote-code`",
        )
    changes: list[tuple[torch.Tensor, torch.Tensor]] = []
    for head in mask.heads:
        projection = attention_out(base, head.layer)
        weight, features = projection.weight(base.model), base.architecture.head_slice(*head)
        change = torch.zeros_like(weight)
        change[:, features] = weight[:, features] * (mask.scale - 1)
        changes.append((weight, change))
        if head in mask.fill:
            bias = projection.bias(base.model)
            if bias is None:
                raise EditorError(
                    f"head {head.layer}.{head.head} is pruned towards its mean, and "
                    f"{projection.path} has no bias to hold it",
                    "`--as adapter` or `--as remote-code`",
                )
            fill = mask.fill[head].to(weight) * (1 - mask.scale)
            changes.append((bias, weight[:, features] @ fill))
    return changes


def write_merged(method: Method[Any, Any], state: EditState, folder: Path) -> None:
    """Write the base with ``state`` in its weights into ``folder``; raises the errors of
    :func:`merged`."""
    with merged(method, state) as model:
        model.base.model.save_pretrained(folder)
        model.base.tokenizer.save_pretrained(folder)
