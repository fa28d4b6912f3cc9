"""Path effects of heads against whole forwards with every head forced."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny_configs import EDITABLE
from tiny_models import quick_first

from editors import EditorError, UnsupportedArchitecture
from editors.heads.path_patching import path_effects
from editors.inference.edited_model import EditedModel
from editors.model.tokenization import Row

BaseOf = Callable[..., Any]
ORIGINAL = [(1, 5, 9, 20, 31, 7), (1, 8, 40), (1, 33, 12, 64, 70, 18, 22, 41, 50, 11)]
CORRUPTED = [(1, 5, 9, 44, 31, 7), (1, 61, 40), (1, 33, 12, 30, 70, 18, 22, 16, 50, 11)]
TOKENS = torch.tensor([[4, 50], [17, 9], [23, 60]])


def batch(base: Any, rows: list[tuple[int, ...]]) -> Any:
    return base.batch([Row.of_prompt(ids) for ids in rows])


def effects(
    base: Any, corrupted: list[tuple[int, ...]] = CORRUPTED, **options: Any
) -> torch.Tensor:
    original, other = batch(base, ORIGINAL), batch(base, corrupted)
    return path_effects(EditedModel.unedited(base), original, other, TOKENS, **options)


def projections(base: Any) -> list[str]:
    return [block.attention_out.path for block in base.architecture.blocks]


# Attention of these computes in float32 whatever their weights are, so that on some processors it
# shows beyond 1e-10 how many rows run together; and experts know no float64.
EXACT = [family for family in EDITABLE if family not in ("gptj", "bloom", "gemma2")]


@pytest.mark.parametrize(
    ("family", "dtype"),
    quick_first((*EDITABLE, "deepseek_v3"), torch.float32) + quick_first(EXACT, torch.float64),
)
def test_one_token_is_enough(
    tiny_base: BaseOf, literal_patching: ModuleType, family: str, dtype: torch.dtype
) -> None:
    base = tiny_base(family)
    base = replace(base, model=deepcopy(base.model).to(dtype))
    of_heads = effects(base)
    architecture = base.architecture
    paths = projections(base)
    wanted = torch.zeros_like(of_heads)
    for layer in range(len(paths)):
        for head in range(architecture.n_heads):
            patched = {layer: architecture.head_slice(layer, head)}
            for row, (one, other) in enumerate(zip(ORIGINAL, CORRUPTED, strict=True)):
                lost = literal_patching.effect(base.model, paths, patched, one, other)
                wanted[layer, head, row] = lost[TOKENS[row]]
    assert float(wanted.abs().max()) > 1e-3
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(of_heads, wanted, atol=tolerance, rtol=tolerance)


def test_a_model_that_mixes_tokens_by_other_means_is_refused(tiny_base: BaseOf) -> None:
    base = tiny_base("qwen3_5_text")  # most of its blocks are recurrent
    with pytest.raises(UnsupportedArchitecture, match="by other means than attention heads"):
        effects(base)


def test_what_is_not_corrupted_has_no_effect(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    rounding = 1e-6  # equal rows of one matrix product
    assert float(effects(base, ORIGINAL).abs().max()) <= rounding
    muted = replace(base, model=deepcopy(base.model))
    part = muted.architecture.head_slice(1, 2)
    projection = muted.architecture.block(1).attention_out
    projection.weight(muted.model)[:, part] = 0.0
    of_heads = effects(muted)
    assert float(of_heads[1, 2].abs().max()) <= rounding
    assert float(of_heads[1, 1].abs().max()) > 1e-3


@pytest.mark.parametrize("family", ["llama", "falcon", "phi", "gpt2"])
def test_a_group_is_its_heads_patched_together(
    tiny_base: BaseOf, literal_patching: ModuleType, family: str
) -> None:
    base = tiny_base(family)
    architecture = base.architecture
    of_groups = effects(base, unit="group")
    wanted = torch.zeros_like(of_groups)
    share = architecture.n_heads // architecture.n_kv_heads
    assert of_groups.shape[1] == architecture.n_kv_heads
    for layer in range(len(architecture.blocks)):
        for group in range(architecture.n_kv_heads):
            first, last = group * share, (group + 1) * share - 1
            start = architecture.head_slice(layer, first).start
            patched = {layer: slice(start, architecture.head_slice(layer, last).stop)}
            for row, (one, other) in enumerate(zip(ORIGINAL, CORRUPTED, strict=True)):
                lost = literal_patching.effect(base.model, projections(base), patched, one, other)
                wanted[layer, group, row] = lost[TOKENS[row]]
    torch.testing.assert_close(of_groups, wanted, atol=1e-5, rtol=1e-5)


def test_how_many_tokens_go_together_does_not_matter(
    tiny_base: BaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base("llama")
    together = effects(base)
    monkeypatch.setattr("editors.heads.path_patching.ROWS_AT_ONCE", 4 * len(ORIGINAL))
    torch.testing.assert_close(effects(base), together, atol=1e-6, rtol=1e-5)


def test_effects_of_a_model_in_half_precision_are_float32(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    half = replace(base, model=deepcopy(base.model).to(torch.bfloat16))
    of_heads = effects(half)
    assert of_heads.dtype == torch.float32
    wanted = effects(base)
    assert float((of_heads - wanted).norm()) < 0.1 * float(wanted.norm())


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
