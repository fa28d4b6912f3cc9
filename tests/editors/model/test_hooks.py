"""Modules that are swapped and hooks that are registered go again, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
import torch
from torch import nn

from editors.model.hooks import (
    StandIn,
    changing_input,
    reading_inputs,
    reading_outputs,
    stop_forward,
    stopping_early,
    swapped,
)

Models = Callable[[str], Any]
PATH = "model.layers.1.mlp.down_proj"
IDS = torch.tensor([[1, 5, 9]])


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_a_module_leaves_when_its_path_is_restored(fresh_tiny_model: Models) -> None:
    model = fresh_tiny_model("llama")
    original, names = model.get_submodule(PATH), list(model.state_dict())
    with pytest.raises(ZeroDivisionError), swapped(model, {PATH: nn.Identity()}):
        raise ZeroDivisionError
    assert model.get_submodule(PATH) is original
    assert list(model.state_dict()) == names


def test_a_module_and_one_inside_it_are_both_restored(fresh_tiny_model: Models) -> None:
    model = fresh_tiny_model("llama")
    mlp, inner = model.get_submodule("model.layers.1.mlp"), model.get_submodule(PATH)
    outer = nn.ModuleDict({"down_proj": nn.Identity()})
    with swapped(model, {"model.layers.1.mlp": outer, PATH: nn.Identity()}):
        assert model.get_submodule(PATH) is outer["down_proj"]
    assert model.get_submodule("model.layers.1.mlp") is mlp
    assert model.get_submodule(PATH) is inner


def test_a_stand_in_has_the_attributes_of_its_module_and_none_of_its_tensors() -> None:
    module = nn.Linear(3, 2)
    stand_in = StandIn(module)
    assert stand_in.in_features == 3
    assert stand_in.weight is module.weight
    assert list(stand_in.parameters()) == []
    with pytest.raises(AttributeError):
        _ = stand_in.no_such_thing


def test_readers_see_what_passes_and_go(tiny_model: Models) -> None:
    model, seen = tiny_model("llama"), {}

    def read_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen["input"] = args[0]

    def read_output(output: Any) -> None:
        seen["output"] = output

    with reading_inputs(model, {PATH: read_input}), reading_outputs(model, {PATH: read_output}):
        model(input_ids=IDS)
    torch.testing.assert_close(model.get_submodule(PATH)(seen["input"]), seen["output"])
    assert hooks(model) == 0


def test_readers_see_no_other_thread(tiny_model: Models) -> None:
    model, seen = tiny_model("llama"), []
    with reading_outputs(model, {PATH: seen.append}):
        other = Thread(target=lambda: model(input_ids=IDS))
        other.start()
        other.join()
        assert seen == []
        model(input_ids=IDS)
    assert len(seen) == 1


def test_a_forward_that_is_stopped_runs_no_further(tiny_model: Models) -> None:
    model, seen = tiny_model("llama"), []
    readers = {PATH: lambda _: stop_forward(), "lm_head": seen.append}
    with reading_outputs(model, readers), stopping_early():
        model(input_ids=IDS)
    assert seen == []
    assert hooks(model) == 0


def test_an_input_that_is_changed_is_the_module_s_own_again(tiny_model: Models) -> None:
    module = tiny_model("llama").get_submodule(PATH)
    inputs = torch.ones(1, module.in_features)
    with changing_input(module, lambda x: x * 0):
        assert not module(inputs).any()
    assert module(inputs).any()
