"""Path patching of one token against whole forwards with every head forced (PH3 section 7.1)."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny_models import EDITABLE

from editors import EditorError
from editors.heads import path_effects
from editors.tokens import Row

BaseOf = Callable[..., Any]
ORIGINAL = [(1, 5, 9, 20, 31, 7), (1, 8, 40), (1, 33, 12, 64, 70, 18, 22, 41, 50, 11)]
CORRUPTED = [(1, 5, 9, 44, 31, 7), (1, 61, 40), (1, 33, 12, 30, 70, 18, 22, 16, 50, 11)]
TOKENS = torch.tensor([[4, 50], [17, 9], [23, 60]])


def batch(base: Any, rows: list[tuple[int, ...]]) -> Any:
    return base.batch([Row(ids, len(ids)) for ids in rows])


def effects(base: Any, corrupted: list[tuple[int, ...]] = CORRUPTED) -> torch.Tensor:
    return path_effects(base, batch(base, ORIGINAL), batch(base, corrupted), TOKENS)


# GPT-J's attention computes in float32 whatever its weights are, and experts know no float64.
EXACT = [family for family in EDITABLE if family != "gptj"]


@pytest.mark.parametrize(
    ("family", "dtype"),
    [(family, torch.float32) for family in (*EDITABLE, "deepseek_v3")]
    + [(family, torch.float64) for family in EXACT],
)
def test_one_token_is_enough(
    tiny_base: BaseOf, literal_patching: ModuleType, family: str, dtype: torch.dtype
) -> None:
    """Property 1."""
    base = tiny_base(family)
    base = replace(base, model=deepcopy(base.model).to(dtype))
    found = effects(base)
    architecture = base.architecture
    paths = [block.attention_out.path for block in architecture.blocks]
    wanted = torch.zeros_like(found)
    for layer in range(len(paths)):
        for head in range(architecture.n_heads):
            features = architecture.head_slice(layer, head)
            for row, (one, other) in enumerate(zip(ORIGINAL, CORRUPTED, strict=True)):
                lost = literal_patching.effect(base.model, paths, layer, features, one, other)
                wanted[layer, head, row] = lost[TOKENS[row]]
    assert float(wanted.abs().max()) > 1e-3
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)


def test_what_is_not_corrupted_has_no_effect(tiny_base: BaseOf) -> None:
    """Property 2."""
    base = tiny_base("llama")
    assert float(effects(base, ORIGINAL).abs().max()) < 1e-6
    muted = replace(base, model=deepcopy(base.model))
    part = muted.architecture.head_slice(1, 2)
    projection = muted.architecture.block(1).attention_out
    projection.weight(muted.model)[:, part] = 0.0
    assert float(effects(muted)[1, 2].abs().max()) < 1e-6
    assert float(effects(muted)[1, 1].abs().max()) > 1e-3


def test_the_model_is_as_it_was_afterwards(tiny_base: BaseOf) -> None:
    base = tiny_base("gptj")
    ids = torch.tensor([ORIGINAL[0]])
    with torch.no_grad():
        before = base.model(input_ids=ids).logits
        effects(base)
        assert torch.equal(base.model(input_ids=ids).logits, before)


def test_both_runs_have_the_same_rows(tiny_base: BaseOf) -> None:
    with pytest.raises(EditorError, match="3 rows cannot be patched from 2"):
        effects(tiny_base("llama"), CORRUPTED[:2])
