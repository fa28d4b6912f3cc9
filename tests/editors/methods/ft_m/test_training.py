"""Fine-tuning against a plain loop over the whole model, and the bound on the change."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_edits import FACTS, SETTINGS, edit, no_edits
from tiny_models import quick_first
from torch import nn

from editors import METHODS, EditorError
from editors.inference.batching import Budget
from editors.inference.generation import answers
from editors.methods.ft_m import FtMSettings, training
from editors.methods.ft_m.training import DenseDelta, fine_tune
from editors.model.base_model import Base
from editors.model.tokenization import Row, encode_pairs

BaseOf = Callable[..., Any]
FAMILIES = quick_first(["llama", "gptj", "gpt2", "gemma2", "opt"])


def rows_of(base: Base, beginnings: tuple[str, ...] = ("", "Ann wrote , ")) -> list[list[Row]]:
    """For each fact its bare prompt and one after a beginning."""
    return [
        encode_pairs(
            base.tokenizer,
            [(start + fact.prompt, fact.target) for start in beginnings],
            stop=True,
        )
        for fact in FACTS[:3]
    ]


def unit_of(base: Base) -> float:
    return float(base.projection.weight(base.model).square().mean().sqrt())


@pytest.mark.parametrize("family", FAMILIES)
def test_it_trains_what_the_whole_model_trains(
    tiny_base: BaseOf, full_loop: ModuleType, family: str
) -> None:
    base = tiny_base(family)
    settings = FtMSettings(learning_rate=0.1, bound=0.3, max_steps=6)
    facts = rows_of(base)
    tuned = fine_tune(base, facts, None, settings, 3, None)
    projection = base.projection
    full = full_loop.FullModel(base.model, projection.path, stored_transposed=projection.transposed)
    wanted = full_loop.fine_tuned(full, [row for own in facts for row in own], settings, 3)
    weight = projection.weight(base.model) + tuned.values
    torch.testing.assert_close(weight, wanted.weight, atol=1e-5, rtol=0)
    assert tuned.iterations == wanted.steps == 6
    assert float(tuned.values.abs().max()) == pytest.approx(0.3 * unit_of(base), rel=1e-5)


def test_it_stops_where_the_plain_loop_stops(tiny_base: BaseOf, full_loop: ModuleType) -> None:
    base = tiny_base("llama")
    settings = FtMSettings(learning_rate=0.2, bound=3.0, confidence=0.3)
    facts = rows_of(base, ("",))
    tuned = fine_tune(base, facts, None, settings, 0, None)
    full = full_loop.FullModel(base.model, base.projection.path, stored_transposed=False)
    wanted = full_loop.fine_tuned(full, [row for own in facts for row in own], settings, 0)
    assert 0 < tuned.iterations == wanted.steps < settings.max_steps
    assert tuned.failed == ()


@pytest.mark.parametrize("bound", [1e-3, 0.1])
def test_no_entry_is_changed_by_more_than_the_bound_over_all_groups(
    tiny_base: BaseOf, bound: float
) -> None:
    base = tiny_base("llama")
    settings = FtMSettings(learning_rate=0.2, bound=bound, max_steps=5)
    first = fine_tune(base, rows_of(base)[:1], None, settings, 0, None)
    second = fine_tune(base, rows_of(base)[1:], first.values, settings, 1, None)
    for tuned in (first, second):
        assert float(tuned.values.abs().max()) <= bound * unit_of(base) * (1 + 1e-6)
    assert not torch.equal(first.values, second.values)


def test_what_cannot_be_learnt_is_named(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    settings = FtMSettings(bound=1e-6, max_steps=2)
    assert fine_tune(base, rows_of(base), None, settings, 0, None).failed == (0, 1, 2)


def test_nothing_is_run_once_all_steps_are_taken(
    tiny_base: BaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of three batches is recorded and judged once; between, each step is one forward."""
    base, forwards = tiny_base("llama"), []
    monkeypatch.setattr(training, "STEP", Budget(rows=1))
    facts = rows_of(base, ("",))
    for steps in (0, 1, 2):
        forwards.clear()
        settings = SimpleNamespace(**{**asdict(FtMSettings()), "max_steps": steps})
        with base.model.register_forward_pre_hook(lambda *_: forwards.append(1)):
            tuned = fine_tune(base, facts, None, settings, 0, None)
        assert (tuned.iterations, len(forwards)) == (steps, 3 + steps + 3)


def test_the_start_is_left_as_it_was(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    start = torch.zeros(base.projection.weight(base.model).shape)
    fine_tune(base, rows_of(base)[:1], start, FtMSettings(max_steps=2), 0, None)
    assert not start.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_in_half_precision_is_trained_and_attached(
    tiny_base: BaseOf, dtype: torch.dtype
) -> None:
    base = tiny_base("llama")
    base = replace(base, model=deepcopy(base.model).to(dtype))
    method = METHODS.load("ft-m").build(base, SETTINGS["ft-m"], 0)
    done = edit(method, FACTS[:2])
    assert done.failed == ()
    assert done.state.payload.delta.dtype == dtype
    with method.attach(done.state) as model:
        given = answers(model, [fact.prompt for fact in FACTS[:2]], 5)
    assert [answer.text for answer in given] == [fact.target for fact in FACTS[:2]]


def test_training_that_ends_in_no_numbers_is_refused(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    base = replace(base, model=deepcopy(base.model))
    method = METHODS.load("ft-m").build(base, SETTINGS["ft-m"], 0)
    start = no_edits(method)
    base.model.lm_head.weight.data[5] = float("nan")  # as after an overflow in half precision
    with pytest.raises(EditorError, match="not finite numbers"):
        edit(method, FACTS[:1], start)


def test_a_dense_change_is_added_for_every_row_but_not_while_probing(tiny_base: BaseOf) -> None:
    module, delta = nn.Linear(6, 5), torch.randn(5, 6)
    changed, inputs = DenseDelta(module, delta), torch.randn(2, 3, 6)
    with torch.no_grad():
        wanted = inputs @ (module.weight + delta).T + module.bias
        torch.testing.assert_close(changed(inputs), wanted)
        with tiny_base("llama").probing():
            assert torch.equal(changed(inputs), module(inputs))
