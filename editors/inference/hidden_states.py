"""What the unedited base makes of a prompt, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from editors.inference.batching import Budget, batches
from editors.inference.token_subset import TokenSubset, max_wasted_on, tokenwise_modules
from editors.model.base_model import Base
from editors.model.hooks import (
    OutputReader,
    hidden_of,
    reading_inputs,
    reading_outputs,
    stop_forward,
    stopping_early,
    swapped,
)
from editors.model.tokenization import Batch, Ids, Row, TokenIndex

MIN_SUBSET = 16  # tokens; fewer go through other kernels, whose sums differ by more
# Pads that cost about as much as a forward itself does for reading weights and launching kernels.
PADS = {"cpu": 16}
PADS_ELSEWHERE = 512

Keep = Callable[[torch.Tensor], torch.Tensor]
"""What is kept of the states ``[rows, layers, hidden]`` of some prompts, row by row."""


def last_token_states(
    base: Base,
    prompts: Sequence[Ids],
    layers: Sequence[int],
    keep: Keep = torch.clone,
    *,
    shared: bool = False,
) -> torch.Tensor:
    """float32 ``[prompts, layers, hidden]``: the output of blocks ``layers`` (rising) at the last
    token of each prompt, or what ``keep`` makes of that.

    Blocks above the last of ``layers`` do not run. ``shared``: other threads may run the model
    meanwhile, so no module is swapped.
    """
    budget = Budget(rows=512, pads=PADS.get(base.input_device.type, PADS_ELSEWHERE))
    found: dict[int, torch.Tensor] = {}
    for part in batches([len(prompt) for prompt in prompts], budget):
        # Without a mask: a token sees what is before it alone, and pads are behind.
        batch = base.batch([Row.of_prompt(prompts[i]) for i in part])
        states = _states(base, batch.ids, layers, _last_tokens(batch), shared=shared)
        found.update(zip(part, keep(states), strict=True))
    return torch.stack([found[i] for i in range(len(prompts))])


def all_token_states(base: Base, prompt: Ids, layers: Sequence[int]) -> torch.Tensor:
    """float32 ``[tokens, layers, hidden]``: :func:`last_token_states` of every beginning of
    ``prompt``, of one forward: a state sees what is before it alone."""
    ids = base.batch([Row.of_prompt(prompt)]).ids
    tokens = torch.arange(len(prompt), device=ids.device)
    return _states(base, ids, layers, (torch.zeros_like(tokens), tokens), shared=True)


class StateRequest:
    """A request for last-token states.

    It can run on its own, or be appended to the batch of another forward of the base.
    """

    def __init__(
        self, base: Base, prompts: Sequence[Ids], layers: Sequence[int], keep: Keep = torch.clone
    ) -> None:
        """Arguments as of :func:`last_token_states`."""
        self.layers = layers
        self._base, self._prompts, self._keep = base, prompts, keep
        self._states: torch.Tensor | None = None

    def rows_to_append(self, batch: Batch, max_tokens: int) -> Batch | None:
        """The rows to append to ``batch``, padded on the right.

        None where nothing is left to be read, or both together have more than ``max_tokens``
        tokens, with their pads.
        """
        longest = max([batch.ids.shape[1], *map(len, self._prompts)])
        full = longest * (len(batch.ids) + len(self._prompts)) > max_tokens
        if self._states is not None or not self._prompts or full:
            return None
        return self._base.batch([Row.of_prompt(prompt) for prompt in self._prompts])

    @contextmanager
    def reading(self, appended: Batch, first: int) -> Iterator[None]:
        """Read the one forward inside ``with``, whose rows from ``first`` on are ``appended``."""
        states: list[torch.Tensor] = []
        rows, last = _last_tokens(appended)
        readers = _readers(self._base, self.layers, (rows + first, last), states.append)
        with reading_outputs(self._base.model, readers):
            yield
        self._states = self._keep(_stacked(states))

    def states(self) -> torch.Tensor:
        """float32 ``[prompts, layers, hidden]``, or what is kept of that."""
        if self._states is None:
            self._states = last_token_states(self._base, self._prompts, self.layers, self._keep)
        return self._states


def projection_inputs(base: Base, prompts: Sequence[Ids]) -> list[torch.Tensor]:
    """For each prompt, what the edited projection reads: float32 ``[tokens, in]``."""
    found: dict[int, torch.Tensor] = {}

    def read(args: tuple[Any, ...], _: dict[str, Any]) -> None:
        # Some blocks flatten what their MLP reads to [rows * seq, in].
        found.update(zip(part, args[0].float().view(*batch.ids.shape, -1).clone(), strict=True))
        stop_forward()

    with torch.inference_mode(), reading_inputs(base.model, {base.projection.path: read}):
        for part in batches([len(prompt) for prompt in prompts], Budget(rows=512, pads=0)):
            batch = base.batch([Row.of_prompt(prompts[i]) for i in part])
            with base.probing(), stopping_early():
                base.model(input_ids=batch.ids, use_cache=False)
    return [found[i] for i in range(len(prompts))]


def _states(
    base: Base, ids: torch.Tensor, layers: Sequence[int], index: TokenIndex, *, shared: bool
) -> torch.Tensor:
    """float32 ``[tokens, layers, hidden]``, in main memory, at ``index``, of one forward that ends
    when they are read."""
    states: list[torch.Tensor] = []

    def keep(part: torch.Tensor) -> None:
        states.append(part)
        if len(states) == len(layers):
            stop_forward()

    subsets = {}
    if len(index[0]) >= MIN_SUBSET and not shared:
        # Of the last block that is read, nothing uses the output at other tokens.
        last = tokenwise_modules(base.model, base.architecture.block(layers[-1]))
        subsets = {
            path: TokenSubset(
                base.model.get_submodule(path), lambda: index, max_wasted_on(ids.device)
            )
            for path, alone in last.items()
            if alone
        }
    with (
        torch.inference_mode(),
        base.probing(),
        swapped(base.model, subsets),
        reading_outputs(base.model, _readers(base, layers, index, keep)),
        stopping_early(),
    ):
        base.model(input_ids=ids, use_cache=False)
    return _stacked(states)


def _readers(
    base: Base, layers: Sequence[int], index: TokenIndex, keep: Callable[[torch.Tensor], None]
) -> dict[str, OutputReader]:
    """For each of ``layers``, what hands the output of its block at ``index`` to ``keep``."""

    def read(output: Any) -> None:
        hidden = hidden_of(output)
        keep(hidden[tuple(axis.to(hidden.device) for axis in index)].float())

    return {base.architecture.block(layer).path: read for layer in layers}


def _stacked(of_layers: Sequence[torch.Tensor]) -> torch.Tensor:
    """float32 ``[tokens, layers, hidden]``, in main memory."""
    return torch.stack([states.cpu() for states in of_layers], 1)


def _last_tokens(batch: Batch) -> TokenIndex:
    """Row and column of the last token of each row, padded on the right."""
    last = batch.mask.sum(1) - 1  # [rows]
    return torch.arange(len(last), device=last.device), last
