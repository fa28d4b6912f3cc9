"""What pruning a head means (PH3 section 7.1, property 5)."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import EDITABLE

from editors import EditorError
from editors.hooks import reading_outputs
from editors.pruning import Head, HeadMask

BaseOf = Callable[..., Any]
IDS = torch.tensor([[1, 5, 9, 20, 31, 7], [1, 33, 12, 64, 70, 18]])
SOME = (Head(0, 1), Head(2, 0), Head(2, 3))


def logits(base: Any, mask: HeadMask | None = None) -> torch.Tensor:
    with torch.no_grad():
        if mask is None:
            found: torch.Tensor = base.model(input_ids=IDS).logits
            return found
        with mask.attached(base):
            return logits(base)


@pytest.mark.parametrize("family", EDITABLE)
@pytest.mark.parametrize("scale", [0.0, 2.5])
def test_a_scaled_head_is_a_scaled_slice_of_the_weight(
    tiny_base: BaseOf, family: str, scale: float
) -> None:
    base = tiny_base(family)
    before = logits(base)
    found = logits(base, HeadMask(SOME, scale))
    baked = replace(base, model=deepcopy(base.model))
    for layer, head in SOME:
        weight = baked.architecture.block(layer).attention_out.weight(baked.model)
        weight[:, baked.architecture.head_slice(layer, head)] *= scale
    torch.testing.assert_close(found, logits(baked), atol=1e-5, rtol=1e-5)
    assert float((found - before).abs().max()) > 1e-3
    assert torch.equal(logits(base), before), "bit for bit as it was"


def test_a_factor_of_one_changes_nothing(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    assert torch.equal(logits(base, HeadMask(SOME, 1.0)), logits(base))
    assert torch.equal(logits(base, HeadMask()), logits(base))


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_generation_with_a_cache_is_generation_without(tiny_base: BaseOf, family: str) -> None:
    base = tiny_base(family)
    with HeadMask(SOME).attached(base), torch.no_grad():
        said = [
            base.model.generate(
                input_ids=IDS,
                max_new_tokens=6,
                do_sample=False,
                use_cache=cached,
                eos_token_id=None,
            )
            for cached in (True, False)
        ]
    assert torch.equal(said[0], said[1])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_without_any_head_a_layer_s_attention_writes_its_bias(
    tiny_base: BaseOf, family: str
) -> None:
    base = tiny_base(family)
    out = base.architecture.block(1).attention_out
    everything = HeadMask(tuple(Head(1, head) for head in range(base.architecture.n_heads)))
    written: list[torch.Tensor] = []
    with reading_outputs(base.model, {out.path: written.append}):
        logits(base, everything)
    bias = out.bias(base.model)
    wanted = torch.zeros(out.out_features) if bias is None else bias
    torch.testing.assert_close(written[0], wanted.expand_as(written[0]), atol=1e-6, rtol=0)


def test_heads_that_are_not_there_are_refused(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    for mask, said in (
        (HeadMask((Head(9, 0),)), "layer 9 is not one of 0 to 2"),
        (HeadMask((Head(0, 4),)), "head 4 is not one of 0 to 3"),
    ):
        with pytest.raises(EditorError, match=said), mask.attached(base):
            pass
    with pytest.raises(EditorError, match="named twice"):
        HeadMask((Head(0, 1), Head(0, 1)))
