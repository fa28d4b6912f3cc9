"""A change on a mask: what it adds, and its gradient, against the matrix written out."""

from __future__ import annotations

import pytest
import torch

from editors.methods.wise.shards import Mask, Shard
from editors.methods.wise.training.masked_delta import MaskedDelta

MASK = Mask((7, 11), 0.4, 3)
WEIGHT = torch.zeros(7, 11)


def values(seed: int = 0) -> torch.Tensor:
    return torch.randn(int(MASK.entries().sum()), generator=torch.Generator().manual_seed(seed))


def test_it_adds_what_the_shard_that_holds_its_values_adds() -> None:
    change = MaskedDelta(MASK.entries(), values(), WEIGHT)
    inputs = torch.randn(2, 5, 11)
    delta = Shard((), MASK, values()).delta()
    torch.testing.assert_close(change(inputs), inputs @ delta.T)
    assert torch.equal(change.delta(), delta)


@pytest.mark.parametrize("shape", [(4, 11), (2, 5, 11)])
def test_its_gradient_is_that_of_the_matrix_at_the_mask(shape: tuple[int, ...]) -> None:
    change, inputs = MaskedDelta(MASK.entries(), values(), WEIGHT), torch.randn(shape)
    change(inputs).square().sum().backward()
    delta = Shard((), MASK, values()).delta().requires_grad_()
    (inputs @ delta.T).square().sum().backward()
    assert delta.grad is not None
    torch.testing.assert_close(change.values.grad, delta.grad[MASK.entries()])


def test_a_step_of_an_optimiser_is_seen() -> None:
    change, inputs = MaskedDelta(MASK.entries(), values(), WEIGHT), torch.randn(4, 11)
    optimizer = torch.optim.SGD([change.values], lr=0.5)
    change(inputs).square().sum().backward()
    optimizer.step()
    now = Shard((), MASK, change.values.detach()).delta()
    assert not torch.equal(now, Shard((), MASK, values()).delta())
    torch.testing.assert_close(change(inputs), inputs @ now.T)


def test_in_a_coarser_dtype_it_applies_what_will_be_saved() -> None:
    change = MaskedDelta(MASK.entries(), values(), WEIGHT.bfloat16())
    inputs = torch.randn(4, 11).bfloat16()
    saved = Shard((), MASK, change.rounded())
    assert saved.values.dtype == torch.bfloat16
    assert torch.equal(change(inputs), inputs @ saved.delta().bfloat16().T)
    change(inputs).float().square().sum().backward()
    assert change.values.grad is not None
    assert change.values.grad.dtype == torch.float32


def test_the_start_is_left_as_it_was() -> None:
    start = values()
    change = MaskedDelta(MASK.entries(), start, WEIGHT)
    with torch.no_grad():
        change.values.add_(1)
    assert torch.equal(start, values())
