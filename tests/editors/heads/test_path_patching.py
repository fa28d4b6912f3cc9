"""Effects of heads against whole forwards with every head forced (PH3 section 7.1)."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny_models import CONFIGS, EDITABLE

from editors import EditorError, UnsupportedArchitecture
from editors.heads.path_patching import direct_effects, path_effects
from editors.model.hooks import changing_input, reading_inputs, reading_outputs, swapped
from editors.model.tokenization import Row

BaseOf = Callable[..., Any]
ORIGINAL = [(1, 5, 9, 20, 31, 7), (1, 8, 40), (1, 33, 12, 64, 70, 18, 22, 41, 50, 11)]
CORRUPTED = [(1, 5, 9, 44, 31, 7), (1, 61, 40), (1, 33, 12, 30, 70, 18, 22, 16, 50, 11)]
TOKENS = torch.tensor([[4, 50], [17, 9], [23, 60]])


def batch(base: Any, rows: list[tuple[int, ...]]) -> Any:
    return base.batch([Row(ids, len(ids)) for ids in rows])


def effects(
    base: Any,
    corrupted: list[tuple[int, ...]] = CORRUPTED,
    of: Callable[..., torch.Tensor] = path_effects,
    **options: Any,
) -> torch.Tensor:
    return of(base, batch(base, ORIGINAL), batch(base, corrupted), TOKENS, **options)


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
# Attention of these computes in float32 whatever their weights are, so that on some processors it
# shows beyond 1e-10 how many rows run together; and experts know no float64.
EXACT = [family for family in EDITABLE if family not in ("gptj", "bloom", "gemma2")]


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
    paths = projections(base)
    wanted = torch.zeros_like(found)
    for layer in range(len(paths)):
        for head in range(architecture.n_heads):
            patched = {layer: architecture.head_slice(layer, head)}
            for row, (one, other) in enumerate(zip(ORIGINAL, CORRUPTED, strict=True)):
                lost = literal_patching.effect(base.model, paths, patched, one, other)
                wanted[layer, head, row] = lost[TOKENS[row]]
    assert float(wanted.abs().max()) > 1e-3
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)


def test_a_model_that_mixes_tokens_by_other_means_is_refused(tiny_base: BaseOf) -> None:
    base = tiny_base("qwen3_5_text")  # most of its blocks are recurrent
    with pytest.raises(UnsupportedArchitecture, match="by other means than attention heads"):
        effects(base)


@pytest.mark.parametrize("of", [path_effects, direct_effects])
def test_what_is_not_corrupted_has_no_effect(
    tiny_base: BaseOf, of: Callable[..., torch.Tensor]
) -> None:
    """Property 2."""
    base = tiny_base("llama")
    rounding = 1e-6 if of is path_effects else 0.0  # equal rows of one matrix product
    assert float(effects(base, ORIGINAL, of).abs().max()) <= rounding
    muted = replace(base, model=deepcopy(base.model))
    part = muted.architecture.head_slice(1, 2)
    projection = muted.architecture.block(1).attention_out
    projection.weight(muted.model)[:, part] = 0.0
    found = effects(muted, of=of)
    assert float(found[1, 2].abs().max()) <= rounding
    assert float(found[1, 1].abs().max()) > 1e-3


@pytest.mark.parametrize("family", ADDITIVE)
def test_with_mlps_and_final_norm_frozen_effects_add_up(
    tiny_base: BaseOf, literal_patching: ModuleType, family: str
) -> None:
    """Property 3: to the effect of all heads at once, in a forward with MLPs and norm held."""
    base = tiny_base(family)
    found = effects(base, of=direct_effects)  # [layers, heads, rows, tokens]
    mlps = [block.mlp_down.path for block in base.architecture.blocks]
    every = {block.index: slice(None) for block in base.architecture.blocks}
    for row, (one, other) in enumerate(zip(ORIGINAL, CORRUPTED, strict=True)):
        lost = literal_patching.effect(
            base.model, projections(base), every, one, other, mlps, final_norm(base)
        )[TOKENS[row]]
        assert float(lost.abs().max()) > 1e-3
        torch.testing.assert_close(found[:, :, row].sum((0, 1)), lost, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", [*ADDITIVE, "deepseek_v3", "gemma"])
def test_a_direct_effect_is_direct_logit_attribution(
    tiny_base: BaseOf,
    literal_patching: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
) -> None:
    """Property 3: what o* - o writes, over the norm's scale, times the gain, times W_U."""
    monkeypatch.setitem(CONFIGS, "gemma", CONFIGS["llama"])  # a norm whose gain is 1 + weight
    base = tiny_base(family)
    norm = base.model.get_submodule(final_norm(base))
    gain = norm.weight.detach() + (1.0 if family == "gemma" else 0.0)
    vocabulary = base.model.get_output_embeddings().weight.detach()
    found = effects(base, of=direct_effects)
    wanted = torch.zeros_like(found)
    for row, (one, other) in enumerate(zip(ORIGINAL, CORRUPTED, strict=True)):
        scale = literal_patching.spread(norm, final_residual(base, one))
        kept, _ = literal_patching.runs(base.model, projections(base), one)
        changed, _ = literal_patching.runs(base.model, projections(base), other)
        for block in base.architecture.blocks:
            weight = block.attention_out.weight(base.model)
            for head in range(base.architecture.n_heads):
                features = base.architecture.head_slice(block.index, head)
                lost = (kept[block.index] - changed[block.index])[-1, features]
                written = weight[:, features] @ lost  # [hidden]
                if literal_patching.centres(norm):
                    written = written - written.mean()
                logits = vocabulary @ (gain * written / scale)
                wanted[block.index, head, row] = logits[TOKENS[row]]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ADDITIVE)
def test_what_is_written_adds_up_to_the_logits(
    tiny_base: BaseOf, literal_patching: ModuleType, family: str
) -> None:
    """Property 4: embeddings, heads, their projections' biases and MLPs."""
    base, ids = tiny_base(family), ORIGINAL[0]
    blocks = base.architecture.blocks
    started: list[torch.Tensor] = []
    written: list[torch.Tensor] = []
    keeping = {block.mlp_down.path: lambda out: written.append(out.clone()) for block in blocks}
    with (
        reading_inputs(base.model, {blocks[0].path: lambda args, _: started.append(args[0])}),
        reading_outputs(base.model, keeping),
    ):
        read, logits = literal_patching.runs(base.model, projections(base), ids)
    total = started[0][0, -1].clone()
    for block in blocks:
        out = block.attention_out
        for head in range(base.architecture.n_heads):
            features = base.architecture.head_slice(block.index, head)
            total += out.weight(base.model)[:, features] @ read[block.index][-1, features]
        total += 0.0 if out.bias(base.model) is None else out.bias(base.model)
        total += written[block.index].view(len(ids), -1)[-1]
    torch.testing.assert_close(total, final_residual(base, ids), atol=1e-5, rtol=1e-5)
    norm = base.model.get_submodule(final_norm(base))
    with torch.no_grad():
        unembedded = base.model.get_output_embeddings()(norm(total[None]))[0]
    torch.testing.assert_close(unembedded, logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "falcon", "phi", "gpt2"])
def test_a_group_is_its_heads_patched_together(
    tiny_base: BaseOf, literal_patching: ModuleType, family: str
) -> None:
    base = tiny_base(family)
    architecture = base.architecture
    found = effects(base, unit="group")
    wanted = torch.zeros_like(found)
    share = architecture.n_heads // architecture.n_kv_heads
    assert found.shape[1] == architecture.n_kv_heads
    for layer in range(len(architecture.blocks)):
        for group in range(architecture.n_kv_heads):
            heads = [h for h in range(architecture.n_heads) if architecture.group_of(h) == group]
            slices = [architecture.head_slice(layer, head) for head in heads]
            patched = {layer: slice(slices[0].start, slices[-1].stop)}
            for row, (one, other) in enumerate(zip(ORIGINAL, CORRUPTED, strict=True)):
                lost = literal_patching.effect(base.model, projections(base), patched, one, other)
                wanted[layer, group, row] = lost[TOKENS[row]]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    heads = effects(base, of=direct_effects).unflatten(1, (-1, share)).sum(2)
    together = effects(base, of=direct_effects, unit="group")
    torch.testing.assert_close(together, heads, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", NORM_AFTER)
def test_heads_behind_a_norm_have_no_direct_effects(tiny_base: BaseOf, family: str) -> None:
    with pytest.raises(UnsupportedArchitecture, match="does more with what its heads write"):
        effects(tiny_base(family), of=direct_effects)


def test_only_a_norm_right_before_the_vocabulary_is_frozen(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    head = base.model.get_output_embeddings()
    with (
        changing_input(head, lambda states: 2 * states),
        pytest.raises(UnsupportedArchitecture, match="no module writes what the vocabulary"),
    ):
        effects(base, of=direct_effects)
    with (
        swapped(base.model, {final_norm(base): torch.nn.Tanh()}),
        pytest.raises(UnsupportedArchitecture, match="the Tanh before the vocabulary"),
    ):
        effects(base, of=direct_effects)


def test_the_model_is_as_it_was_afterwards(tiny_base: BaseOf) -> None:
    base = tiny_base("gptj")
    ids = torch.tensor([ORIGINAL[0]])
    with torch.no_grad():
        before = base.model(input_ids=ids).logits
        effects(base)
        effects(base, of=direct_effects)
        assert torch.equal(base.model(input_ids=ids).logits, before)


def test_both_runs_have_the_same_rows(tiny_base: BaseOf) -> None:
    with pytest.raises(EditorError, match="3 rows cannot be patched from 2"):
        effects(tiny_base("llama"), CORRUPTED[:2])
