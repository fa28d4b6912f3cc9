"""Plain weights that hold edits and pruned heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_edits import FACTS, FRANCE, edit, no_edits

from editors import EditorError
from editors.exports.merged import merged
from editors.heads.pruning import Head, HeadMask, HeadPruning

MethodOf = Callable[..., Any]
IDS = torch.tensor([[1, 5, 9, 20, 31, 7], [1, 33, 12, 64, 70, 18]])
HEADS = (Head(0, 1), Head(2, 0), Head(2, 3))


def logits(method: Any) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = method.base.model(input_ids=IDS).logits
        return output


def with_pruning(state: Any, mask: HeadMask) -> Any:
    return replace(state, pruning=HeadPruning("context", mask, state.edits))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_edits_that_are_always_on_and_pruned_heads_are_exact(
    tiny_method: MethodOf, family: str
) -> None:
    method = tiny_method("ft-m", family)
    before = logits(method)
    state = with_pruning(edit(method, FACTS).state, HeadMask(HEADS, 0.5))
    with method.attach(state):
        attached = logits(method)
    with merged(method, state):
        held = logits(method)
    torch.testing.assert_close(held, attached, atol=1e-5, rtol=1e-5)
    assert float((held - before).abs().max()) > 1e-3
    assert torch.equal(logits(method), before), "bit for bit as it was"


def test_a_head_pruned_towards_its_mean_needs_a_bias(tiny_method: MethodOf) -> None:
    for family, exact in (("gpt2", True), ("llama", False)):
        method = tiny_method("ft-m", family)
        width = method.base.architecture.head_slice(0, 1)
        fill = {HEADS[0]: torch.randn(width.stop - width.start)}
        state = with_pruning(no_edits(method), HeadMask(HEADS[:1], 0.0, fill=fill))
        if exact:
            with method.attach(state):
                attached = logits(method)
            with merged(method, state):
                torch.testing.assert_close(logits(method), attached, atol=1e-5, rtol=1e-5)
        else:
            with pytest.raises(EditorError, match="bias"), merged(method, state):
                pass


def test_a_single_routed_edit_answers_its_prompt_from_plain_weights(
    tiny_method: MethodOf,
) -> None:
    from editors.inference.generation import answers

    method = tiny_method("wise")
    with merged(method, edit(method, [FRANCE]).state) as model:
        [answer] = answers(model, [FRANCE.prompt], 2)
    assert answer.text.startswith(FRANCE.target)


def test_without_edits_any_method_bakes_pruned_heads(tiny_method: MethodOf) -> None:
    method = tiny_method("in-context", "mixtral")
    before = logits(method)
    state = with_pruning(no_edits(method), HeadMask(HEADS))
    with method.attach(state):
        attached = logits(method)
    with merged(method, state):
        torch.testing.assert_close(logits(method), attached, atol=1e-5, rtol=1e-5)
    assert float((attached - before).abs().max()) > 1e-3


def test_an_edit_that_was_taken_back_is_not_in_the_weights(tiny_method: MethodOf) -> None:
    method = tiny_method("wise")
    before = logits(method)
    state = edit(method, [FRANCE]).state
    with merged(method, method.remove(state, [FRANCE.id]).state):
        assert torch.equal(logits(method), before)


@pytest.mark.parametrize(
    ("name", "mask", "why"),
    [("in-context", HeadMask(), "no weights"), ("ft-m", HeadMask(HEADS, at="end"), "end")],
)
def test_what_weights_cannot_hold_is_refused(
    tiny_method: MethodOf, name: str, mask: HeadMask, why: str
) -> None:
    method = tiny_method(name)
    before = logits(method)
    state = with_pruning(edit(method, [FRANCE]).state, mask)
    with pytest.raises(EditorError, match=why), merged(method, state):
        pass
    assert torch.equal(logits(method), before)
