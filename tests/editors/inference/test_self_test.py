"""When a base is opened, routing is proved on it, or refused in words."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from tiny_configs import EDITABLE
from transformers import Cache

from editors import UnsupportedArchitecture
from editors.inference import call_tracker, edited_model
from editors.inference.self_test import require_routing

BaseOf = Callable[..., Any]


@pytest.mark.parametrize("family", EDITABLE)
def test_routing_works_on_every_family(tiny_base: BaseOf, family: str) -> None:
    base = tiny_base(family)
    require_routing(base, base.projection.path)


def test_a_cache_that_is_not_recognised_is_refused(
    tiny_base: BaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a release handed on caches of another type: each step would be a prompt of its own."""

    class Unheard(Cache):
        pass

    monkeypatch.setattr(call_tracker, "Cache", Unheard)
    monkeypatch.setattr(call_tracker.CallTracker, "generating", lambda _, generate: generate)
    base = tiny_base("llama")
    with pytest.raises(
        UnsupportedArchitecture, match=r"not be answered reliably with transformers"
    ):
        require_routing(base, base.projection.path)


def test_a_projection_that_is_never_reached_is_refused(
    tiny_base: BaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a family fused its MLP and went past the module."""
    base = tiny_base("llama")
    own = base.projection.module(base.model)
    monkeypatch.setattr(edited_model, "swapped", lambda model, modules: nullcontext())
    with pytest.raises(UnsupportedArchitecture, match="was routed in 0 of 2 forwards"):
        require_routing(base, base.projection.path)
    assert base.projection.module(base.model) is own


def test_a_change_that_reaches_the_other_row_is_refused(
    tiny_base: BaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    from editors.inference import self_test

    def everywhere(inputs: torch.Tensor, output: torch.Tensor, change: Any) -> torch.Tensor:
        return output + change(0, inputs)

    monkeypatch.setattr(self_test, "with_changes", everywhere)
    base = tiny_base("llama")
    with pytest.raises(UnsupportedArchitecture, match="changed the answer to another"):
        require_routing(base, base.projection.path)
