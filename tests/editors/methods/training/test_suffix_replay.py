"""The replayed suffix gives what the whole model gives, and leaves the model as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_configs import EDITABLE

from editors.errors import UnsupportedArchitecture
from editors.methods.training import suffix_replay
from editors.methods.training.records import Record
from editors.methods.training.suffix_replay import SuffixReplay, record_states, require_replay
from editors.model.tokenization import Row

BaseOf = Callable[..., Any]
ROWS = [
    Row((1, 5, 9, 20, 31, 7, 2), 4),
    Row((1, 8, 40, 2), 2),
    Row((1, 33, 12, 64, 70, 18, 22, 41, 50, 11), 10),  # the longest is an irrelevant text
    Row((1, 6, 14, 60, 2), 3),
]


def logits(base: Any, suffix: SuffixReplay, index: int, weight: torch.Tensor) -> Any:
    """With ``weight`` in place of the projection's."""
    change = weight - base.projection.weight(base.model)
    recorded = suffix.records[index]
    return suffix.logits(recorded, recorded.side(lambda inputs: inputs @ change.T))


def other_weight(base: Any) -> torch.Tensor:
    weight: torch.Tensor = base.projection.weight(base.model)
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    return weight + 0.3 * noise


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("family", [*EDITABLE, "deepseek_v3", "qwen2_moe"])
def test_labelled_logits_are_those_of_the_whole_model(
    tiny_base: BaseOf, full_loop: ModuleType, family: str, layer: int
) -> None:
    base = replace(tiny_base(family), layer=layer)
    projection = base.projection
    suffix = record_states(base, [base.batch(ROWS)])
    weight = projection.weight(base.model) + 0.1
    with suffix.replaying(), torch.no_grad():
        found, labels = logits(base, suffix, 0, weight)
    full = full_loop.FullModel(base.model, projection.path, stored_transposed=projection.transposed)
    wanted, gold = [], []
    with torch.no_grad():
        for row in ROWS:
            whole, _ = full.run(row.ids, weight)
            wanted.append(whole[row.prompt_length - 1 : -1])
            gold += row.ids[row.prompt_length :]
    assert labels.tolist() == gold
    torch.testing.assert_close(found, torch.cat(wanted), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "opt"])
def test_pads_that_are_run_as_well_change_nothing(tiny_base: BaseOf, family: str) -> None:
    base = tiny_base(family)
    found, gradients = [], []
    for wasted in (0, 10**6):
        batches = [base.batch(ROWS)]
        suffix = record_states(base, batches, max_wasted=wasted)
        weight = (base.projection.weight(base.model) + 0.1).requires_grad_()
        with suffix.replaying():
            given, labels = logits(base, suffix, 0, weight)
            loss = torch.nn.functional.cross_entropy(given, labels)
            gradients += torch.autograd.grad(loss, weight)
        found.append(given.detach())
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "opt"])
def test_batches_that_share_a_forward_are_recorded_as_alone(
    tiny_base: BaseOf, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    base = tiny_base(family)
    batches = [base.batch(rows) for rows in ([ROWS[1]], [ROWS[0], ROWS[3]], [ROWS[2]])]
    forwards: list[int] = []
    suffixes = []
    with base.model.register_forward_hook(lambda *_: forwards.append(1), always_call=True):
        for most in (0, 21, 10**6):
            monkeypatch.setitem(suffix_replay.SHARED_TOKENS, "cpu", most)
            suffixes.append(record_states(base, batches))
    alone, some, together = suffixes
    assert len(forwards) == 3 + 2 + 1
    for one in zip(alone.records, some.records, together.records, strict=True):
        assert len({tuple(recorded.labels.tolist()) for recorded in one}) == 1
        # Nothing keeps what the others left alive.
        assert all(r.inputs.untyped_storage().nbytes() == r.inputs.nbytes for r in one)
    weight = other_weight(base)
    for number in range(len(batches)):
        inputs, given = [], []
        for suffix in (alone, some, together):
            inputs.append(suffix.records[number].inputs)
            with suffix.replaying(), torch.no_grad():
                given.append(logits(base, suffix, number, weight)[0])
        for other in (1, 2):
            torch.testing.assert_close(inputs[other], inputs[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(given[other], given[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "opt"])
def test_recorded_inputs_are_what_the_projection_reads(
    tiny_base: BaseOf, full_loop: ModuleType, family: str
) -> None:
    base = tiny_base(family)
    suffix = record_states(base, [base.batch(ROWS)])
    recorded = suffix.records[0].inputs
    assert recorded.shape[:2] == (len(ROWS), max(len(row.ids) for row in ROWS))
    projection = base.projection
    full = full_loop.FullModel(base.model, projection.path, stored_transposed=projection.transposed)
    for i, row in enumerate(ROWS):
        with torch.no_grad():
            _, read = full.run(row.ids, full.weight())
        torch.testing.assert_close(recorded[i, : len(row.ids)], read, atol=1e-5, rtol=1e-4)


def test_cross_entropy_of_a_batch_is_the_mean_over_unpadded_rows(
    tiny_base: BaseOf, full_loop: ModuleType
) -> None:
    base = tiny_base("gpt2")  # absolute positions would show pads that count
    weight = other_weight(base)
    suffix = record_states(base, [base.batch(ROWS)])
    with suffix.replaying(), torch.no_grad():
        found = F.cross_entropy(*logits(base, suffix, 0, weight))
    full = full_loop.FullModel(base.model, base.projection.path, stored_transposed=True)
    with torch.no_grad():
        summed = sum(float(full.target_loss(row, weight)) for row in ROWS)
    assert float(found) == pytest.approx(summed / full_loop.tokens_after_prompts(ROWS), abs=1e-5)


def test_several_batches_are_kept_apart(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    batches = [base.batch(ROWS[:2]), base.batch(ROWS[2:])]
    both = record_states(base, batches)
    alone = record_states(base, batches[1:])
    weight = other_weight(base)
    with both.replaying():
        found = logits(base, both, 1, weight)[0]
    with alone.replaying():
        assert torch.equal(found, logits(base, alone, 0, weight)[0])
    assert len(both.records) == 2


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "opt"])
def test_rows_of_several_records_together_give_what_each_gives(
    tiny_base: BaseOf, family: str
) -> None:
    base = tiny_base(family)
    batches = [base.batch(ROWS[:2]), base.batch(ROWS[2:])]
    suffix = record_states(base, batches)
    joined = Record.joined([(suffix.records[1], [1, 0]), (suffix.records[0], [1])])
    assert joined.lengths == [len(ROWS[row].ids) for row in (3, 2, 1)]
    change = other_weight(base) - base.projection.weight(base.model)
    with suffix.replaying(), torch.no_grad():
        found = suffix.logits(joined, joined.side(lambda read: read @ change.T))[0]
        alone = [
            suffix.logits(part, part.side(lambda read: read @ change.T))[0]
            for part in (suffix.records[n].of_rows([row]) for n, row in ((1, 1), (1, 0), (0, 1)))
        ]
    torch.testing.assert_close(found, torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "opt"])
def test_rows_of_a_batch_alone_give_what_they_give_in_it(tiny_base: BaseOf, family: str) -> None:
    base = tiny_base(family)
    suffix = record_states(base, [base.batch(ROWS)])
    [recorded] = suffix.records
    weight = other_weight(base)
    change = weight - base.projection.weight(base.model)
    row_of_label = recorded.labelled[0]
    for rows in ([1], [3, 0], [0, 1, 2, 3], [3, 2, 1, 0]):
        part = recorded.of_rows(rows)
        assert part.batch.ids.shape == (len(rows), max(len(ROWS[row].ids) for row in rows))
        with suffix.replaying(), torch.no_grad():
            whole, labels = logits(base, suffix, 0, weight)
            alone, of_part = suffix.logits(part, part.side(lambda read: read @ change.T))
        wanted = torch.cat([(row_of_label == row).nonzero()[:, 0] for row in rows])
        assert of_part.tolist() == labels[wanted].tolist()
        torch.testing.assert_close(alone, whole[wanted], atol=2e-5, rtol=1e-4)


def test_blocks_that_hand_on_more_than_hidden_states_are_refused(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    require_replay(base)
    carried: dict[str, torch.Tensor] = {}
    first, last = base.model.model.layers[0], base.model.model.layers[2]

    def keep(_: Any, args: Any, output: Any) -> None:
        carried["mean"] = output.mean(1, keepdim=True)

    def add(_: Any, args: Any, output: Any) -> Any:
        return output + carried.pop("mean")

    with (
        base.model.register_forward_pre_hook(lambda *_: carried.clear()),
        first.mlp.register_forward_hook(keep),
        last.mlp.register_forward_hook(add),
        # The first block is not run when its states are replayed.
        pytest.raises(UnsupportedArchitecture, match="more than hidden states"),
    ):
        require_replay(base)


def test_only_the_weight_gets_a_gradient(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    suffix = record_states(base, [base.batch(ROWS)])
    weight = other_weight(base).requires_grad_()
    with suffix.replaying():
        loss = F.cross_entropy(*logits(base, suffix, 0, weight))
        (gradient,) = torch.autograd.grad(loss, weight)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0
    assert all(parameter.grad is None for parameter in base.model.parameters())


def test_the_model_is_itself_again_also_after_an_error(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    ids = torch.tensor([ROWS[0].ids])
    with torch.no_grad():
        before = base.model(input_ids=ids).logits
    suffix = record_states(base, [base.batch(ROWS)])
    with pytest.raises(RuntimeError), suffix.replaying():
        suffix.logits(suffix.records[0], torch.zeros(2, 2))
    with torch.no_grad():
        assert torch.equal(base.model(input_ids=ids).logits, before)
