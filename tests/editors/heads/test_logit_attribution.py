"""Direct logit attribution against forwards with MLPs and the final norm held, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny_configs import CONFIGS, EDITABLE

from editors import EditorError, UnsupportedArchitecture
from editors.heads.logit_attribution import direct_effects
from editors.inference.edited_model import EditedModel
from editors.model.hooks import changing_input, reading_inputs, reading_outputs, swapped
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
    return direct_effects(EditedModel.unedited(base), original, other, TOKENS, **options)


def projections(base: Any) -> list[str]:
    return [block.attention_out.path for block in base.architecture.blocks]


def final_norm(base: Any) -> str:
    """The last norm outside the blocks."""
    norms = [name for name, m in base.model.named_modules() if "norm" in type(m).__name__.lower()]
    first, *_ = base.architecture.blocks
    return [name for name in norms if not name.startswith(first.path.removesuffix("0"))][-1]


def final_residual(base: Any, ids: tuple[int, ...]) -> torch.Tensor:
    """``[hidden]``: what the final norm reads at the last token."""
    seen: list[torch.Tensor] = []
    path = final_norm(base)
    with (
        torch.no_grad(),
        reading_inputs(base.model, {path: lambda args, _: seen.append(args[0].clone())}),
    ):
        base.model(input_ids=torch.tensor([list(ids)]))
    return seen[0].view(len(ids), -1)[-1]


NORM_AFTER = ("gemma2", "gemma3_text", "olmo2")  # a norm between the heads and the residual stream
ADDITIVE = [family for family in EDITABLE if family not in NORM_AFTER]


def test_what_is_not_corrupted_has_no_effect(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    assert float(effects(base, ORIGINAL).abs().max()) == 0.0
    muted = replace(base, model=deepcopy(base.model))
    part = muted.architecture.head_slice(1, 2)
    projection = muted.architecture.block(1).attention_out
    projection.weight(muted.model)[:, part] = 0.0
    of_heads = effects(muted)
    assert float(of_heads[1, 2].abs().max()) == 0.0
    assert float(of_heads[1, 1].abs().max()) > 1e-3


@pytest.mark.parametrize("family", ADDITIVE)
def test_with_mlps_and_final_norm_frozen_effects_add_up(
    tiny_base: BaseOf, literal_patching: ModuleType, family: str
) -> None:
    """They sum to the effect of all heads at once, in a forward with MLPs and norm held."""
    base = tiny_base(family)
    of_heads = effects(base)  # [layers, heads, rows, tokens]
    mlps = [block.mlp_down.path for block in base.architecture.blocks]
    every = {block.index: slice(None) for block in base.architecture.blocks}
    for row, (one, other) in enumerate(zip(ORIGINAL, CORRUPTED, strict=True)):
        lost = literal_patching.effect(
            base.model, projections(base), every, one, other, mlps, final_norm(base)
        )[TOKENS[row]]
        assert float(lost.abs().max()) > 1e-3
        torch.testing.assert_close(of_heads[:, :, row].sum((0, 1)), lost, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", [*ADDITIVE, "deepseek_v3", "gemma"])
def test_a_direct_effect_is_direct_logit_attribution(
    tiny_base: BaseOf,
    literal_patching: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
) -> None:
    """What o* - o writes, over the norm's scale, times the gain, times W_U."""
    monkeypatch.setitem(CONFIGS, "gemma", CONFIGS["llama"])  # a norm whose gain is 1 + weight
    base = tiny_base(family)
    norm = base.model.get_submodule(final_norm(base))
    gain = norm.weight.detach() + (1.0 if family == "gemma" else 0.0)
    vocabulary = base.model.get_output_embeddings().weight.detach()
    of_heads = effects(base)
    wanted = torch.zeros_like(of_heads)
    for row, (one, other) in enumerate(zip(ORIGINAL, CORRUPTED, strict=True)):
        scale = literal_patching.spread(norm, final_residual(base, one))
        original, _ = literal_patching.runs(base.model, projections(base), one)
        corrupted, _ = literal_patching.runs(base.model, projections(base), other)
        for block in base.architecture.blocks:
            weight = block.attention_out.weight(base.model)
            for head in range(base.architecture.n_heads):
                features = base.architecture.head_slice(block.index, head)
                lost = (original[block.index] - corrupted[block.index])[-1, features]
                written = weight[:, features] @ lost  # [hidden]
                if literal_patching.centres(norm):
                    written = written - written.mean()
                logits = vocabulary @ (gain * written / scale)
                wanted[block.index, head, row] = logits[TOKENS[row]]
    torch.testing.assert_close(of_heads, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ADDITIVE)
def test_what_is_written_adds_up_to_the_logits(
    tiny_base: BaseOf, literal_patching: ModuleType, family: str
) -> None:
    """Embeddings, heads, their projections' biases and MLPs are all that there is."""
    base, ids = tiny_base(family), ORIGINAL[0]
    blocks = base.architecture.blocks
    started: list[torch.Tensor] = []
    written: list[torch.Tensor] = []
    keeping = {block.mlp_down.path: lambda out: written.append(out.clone()) for block in blocks}
    with (
        reading_inputs(base.model, {blocks[0].path: lambda args, _: started.append(args[0])}),
        reading_outputs(base.model, keeping),
    ):
        inputs, logits = literal_patching.runs(base.model, projections(base), ids)
    total = started[0][0, -1].clone()
    for block in blocks:
        out = block.attention_out
        for head in range(base.architecture.n_heads):
            features = base.architecture.head_slice(block.index, head)
            total += out.weight(base.model)[:, features] @ inputs[block.index][-1, features]
        total += 0.0 if out.bias(base.model) is None else out.bias(base.model)
        total += written[block.index].view(len(ids), -1)[-1]
    torch.testing.assert_close(total, final_residual(base, ids), atol=1e-5, rtol=1e-5)
    norm = base.model.get_submodule(final_norm(base))
    with torch.no_grad():
        unembedded = base.model.get_output_embeddings()(norm(total[None]))[0]
    torch.testing.assert_close(unembedded, logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "falcon", "phi", "gpt2"])
def test_a_group_s_effect_is_the_sum_of_its_heads_effects(tiny_base: BaseOf, family: str) -> None:
    base = tiny_base(family)
    architecture = base.architecture
    of_groups = effects(base, unit="group")
    share = architecture.n_heads // architecture.n_kv_heads
    assert of_groups.shape[1] == architecture.n_kv_heads
    together = effects(base).unflatten(1, (-1, share)).sum(2)
    torch.testing.assert_close(of_groups, together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", NORM_AFTER)
def test_heads_behind_a_norm_have_no_direct_effects(tiny_base: BaseOf, family: str) -> None:
    with pytest.raises(UnsupportedArchitecture, match="does more with what its heads write"):
        effects(tiny_base(family))


def test_only_a_norm_right_before_the_vocabulary_is_frozen(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    head = base.model.get_output_embeddings()
    with (
        changing_input(head, lambda states: 2 * states),
        pytest.raises(UnsupportedArchitecture, match="no module writes what the vocabulary"),
    ):
        effects(base)
    with (
        swapped(base.model, {final_norm(base): torch.nn.Tanh()}),
        pytest.raises(UnsupportedArchitecture, match="the Tanh before the vocabulary"),
    ):
        effects(base)


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
