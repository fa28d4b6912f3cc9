"""Forwards that begin at a block: the same results, without what lies below."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from pruned_heads import pruned
from tiny_configs import CONFIGS, REFUSED
from tiny_models import quick_first

from editors.heads.pruning import Head, HeadMask
from editors.inference.block_replay import BlockInputs, can_replay
from editors.inference.next_tokens import distributions
from editors.model.hooks import reading_outputs

BaseOf = Callable[..., Any]
IDS = torch.tensor([[1, 5, 9, 20, 33], [1, 8, 40, 7, 12]])
PROMPTS = ["the sea of Kenya is", "Ann lives in Oslo . the sea of Peru is", "who is it"]


def logits(base: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        return base.model(input_ids=ids, use_cache=False).logits.clone()


@contextmanager
def counted(base: Any) -> Iterator[list[int]]:
    """The numbers of the blocks that run inside ``with``."""
    ran: list[int] = []
    readers = {
        block.path: lambda _, index=block.index: ran.append(index)
        for block in base.architecture.blocks
    }
    # Before blocks are swapped, so that only those count that run themselves.
    with reading_outputs(base.model, readers):
        yield ran


# mamba has no block that this tool can change, and is refused as a base.
@pytest.mark.parametrize(
    "family", quick_first(family for family in CONFIGS if family not in REFUSED)
)
def test_a_forward_that_begins_at_a_block_gives_the_same_logits(
    tiny_base: BaseOf, family: str
) -> None:
    base = tiny_base(family)
    expected = logits(base)
    last = len(base.architecture.blocks) - 1
    inputs = BlockInputs(base, tuple(range(1, last + 1)))
    with counted(base) as ran, inputs.known_up_to(last):
        assert torch.equal(logits(base), expected), "it is recorded on the way"
        assert ran == [*range(last + 1)]
    for layer in range(1, last + 1):
        with counted(base) as ran, inputs.known_up_to(layer):
            assert torch.equal(logits(base), expected)
        assert ran == [*range(layer, last + 1)]
    assert torch.equal(logits(base), expected)


def test_what_is_not_known_runs(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    inputs = BlockInputs(base, (1,))
    with inputs.known_up_to(1):
        logits(base)
    for other, expected in ((IDS.flip(0), [0, 1, 2]), (IDS[:1], [0, 1, 2]), (IDS, [1, 2])):
        wanted = logits(base, other)
        with counted(base) as ran, inputs.known_up_to(2):
            assert torch.equal(logits(base, other), wanted)
        assert ran == expected
    with counted(base) as ran, inputs.known_up_to(0):
        logits(base)
    assert ran == [0, 1, 2], "the input of block 1 may have changed"
    with counted(base) as ran, inputs.known_up_to(2), base.probing():
        logits(base)
    assert ran == [0, 1, 2]


def test_rows_may_repeat_those_that_are_known(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    inputs = BlockInputs(base, (2,), rows=2)
    with inputs.known_up_to(2):
        logits(base, IDS.repeat(2, 1))
    with counted(base) as ran, inputs.known_up_to(2):
        repeated = logits(base, IDS.repeat(3, 1))
    assert ran == [2]
    torch.testing.assert_close(repeated, logits(base, IDS).repeat(3, 1, 1))


@pytest.mark.parametrize("at", ["all", "end"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_pruned_heads_change_nothing_below_their_block(
    tiny_base: BaseOf, family: str, at: Any
) -> None:
    base = tiny_base(family)
    inputs = BlockInputs(base, (1, 2))
    for heads in ([Head(2, 1)], [Head(1, 0), Head(2, 3)], [Head(1, 2)], [Head(2, 1)]):
        mask = HeadMask(tuple(heads), at=at)
        with pruned(base, mask) as model:
            expected = distributions(model, PROMPTS)
        with pruned(base, mask) as model, inputs.known_up_to(min(heads).layer):
            assert torch.equal(distributions(model, PROMPTS), expected)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom"])
def test_most_models_can_begin_at_a_block(tiny_base: BaseOf, family: str) -> None:
    assert can_replay(tiny_base(family))


def test_blocks_that_share_more_than_hidden_states_cannot_be_skipped(tiny_base: BaseOf) -> None:
    """The last block adds what the first one has written into a place of its own."""
    base = tiny_base("llama")
    model = deepcopy(base.model)
    first, last = model.model.layers[0], model.model.layers[-1]
    written: list[torch.Tensor] = [torch.zeros(())]
    first.register_forward_pre_hook(lambda _, args: written.__setitem__(0, args[0] + written[0]))
    last.register_forward_pre_hook(lambda _, args: (args[0] + written[0], *args[1:]))
    assert not can_replay(replace(base, model=model))
