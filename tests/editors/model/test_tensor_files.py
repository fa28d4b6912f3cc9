"""Tensors as bytes: the same bytes for the same tensors, and nothing else is read."""

from __future__ import annotations

import json

import pytest
import torch

from editors.errors import StateMismatch
from editors.model.tensor_files import from_bytes, to_bytes


def test_equal_tensors_are_equal_bytes() -> None:
    one, two = torch.arange(3.0), torch.ones(2, 2)
    assert to_bytes({"a": one, "b": two}) == to_bytes({"b": two, "a": one})
    turned = torch.arange(6.0).view(2, 3).T
    assert to_bytes({"b": turned}) == to_bytes({"b": turned.contiguous()})
    assert to_bytes({"a": one.clone().requires_grad_()}) == to_bytes({"a": one})


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([1.5, float("inf"), -0.0]),
        torch.ones(2, 3, dtype=torch.bfloat16),
        torch.tensor([[True, False]]),
        torch.tensor(7),
        torch.zeros(0, 4),
    ],
)
def test_tensors_survive_a_round_trip(tensor: torch.Tensor) -> None:
    after = from_bytes(to_bytes({"a": tensor}))["a"]
    assert (after.dtype, after.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(after, tensor)


def test_the_header_names_no_more_than_the_format() -> None:
    data = to_bytes({"a": torch.ones(2)})
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"] == {"format": "pt"}


@pytest.mark.parametrize("data", [b"", b"{}", to_bytes({"a": torch.ones(9)})[:-4]])
def test_what_is_no_tensors_is_refused(data: bytes) -> None:
    with pytest.raises(StateMismatch, match="saved tensors cannot be read"):
        from_bytes(data)
