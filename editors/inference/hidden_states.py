"""Hidden states of the unedited base, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from editors.inference.batching import Budget, in_batches
from editors.inference.token_subset import TokenSubset, max_wasted_on, on, tokenwise_modules
from editors.model import hooks
from editors.model.base_model import Base
from editors.model.tokenization import Batch, Ids, Row, TokenIndex

MIN_SUBSET = 16  # tokens; fewer would use other kernels, whose rounding differs more
# This many pads take about as long as another forward (loading weights, starting kernels).
PADS = {"cpu": 16}
PADS_ELSEWHERE = 512

Keep = Callable[[torch.Tensor], torch.Tensor]
"""Reduces the states ``[rows, layers, hidden]`` of some prompts, row by row, to what is kept."""


def last_token_states(
    base: Base,
    prompts: Sequence[Ids],
    layers: Sequence[int],
    keep: Keep = torch.clone,
    *,
    shared: bool = False,
) -> torch.Tensor:
    """float32 ``[prompts, layers, hidden]``: the outputs of the blocks ``layers`` (ascending) at
    the last token of each prompt, reduced by ``keep``.

    Blocks above the last of ``layers`` do not run. ``shared``: other threads may use the model at
    the same time, so no module is swapped.
    """

    def run(members: list[int]) -> torch.Tensor:
        # No mask is needed, as a token sees only earlier tokens, and pads come last.
        batch = base.batch([Row.of_prompt(prompts[i]) for i in members])
        return keep(_states(base, batch.ids, layers, _last_tokens(batch), shared=shared))

    budget = Budget(rows=512, pads=PADS.get(base.input_device.type, PADS_ELSEWHERE))
    return torch.stack(in_batches([len(prompt) for prompt in prompts], budget, run))


def all_token_states(base: Base, prompt: Ids, layers: Sequence[int]) -> torch.Tensor:
    """float32 ``[tokens, layers, hidden]``: the outputs of the blocks ``layers`` (ascending) at
    each token of ``prompt``.

    A token sees only earlier tokens. So these are the :func:`last_token_states` of every prefix of
    the prompt, from one forward.
    """
    ids = base.batch([Row.of_prompt(prompt)]).ids
    tokens = torch.arange(len(prompt), device=ids.device)
    return _states(base, ids, layers, (torch.zeros_like(tokens), tokens), shared=True)


def last_states(
    base: Base, prompts: Sequence[Ids], layers: Sequence[int], count: int
) -> list[torch.Tensor]:
    """For each prompt, float16 ``[tokens, len(layers) * hidden]``: the outputs of the blocks
    ``layers`` (ascending), side by side, at its last ``count`` tokens, or at all if it has fewer.

    Blocks above the last of ``layers`` do not run. Other threads may use the model at the same
    time.
    """

    def run(members: list[int]) -> list[torch.Tensor]:
        batch = base.batch([Row.of_prompt(prompts[i]) for i in members])
        ends = batch.mask.sum(1)[:, None]  # [rows, 1]
        column = torch.arange(batch.ids.shape[1], device=ends.device)
        index = ((column < ends) & (column >= ends - count)).nonzero(as_tuple=True)
        states = _states(base, batch.ids, layers, index, shared=True).flatten(1).half()
        return list(torch.split(states, [min(count, len(prompts[i])) for i in members]))

    budget = Budget(rows=64, pads=PADS.get(base.input_device.type, PADS_ELSEWHERE))
    return in_batches([len(prompt) for prompt in prompts], budget, run)


class StateRequest:
    """A request for last-token states.

    It can run by itself, or its rows can be appended to the batch of another forward of the base.
    """

    def __init__(
        self, base: Base, prompts: Sequence[Ids], layers: Sequence[int], keep: Keep = torch.clone
    ) -> None:
        """The arguments are those of :func:`last_token_states`."""
        self.layers = layers
        self._base, self._prompts, self._keep = base, prompts, keep
        self._states: torch.Tensor | None = None

    def rows_to_append(self, batch: Batch, max_tokens: int) -> Batch | None:
        """The rows to append to ``batch``, padded on the right.

        None if there are no prompts, if their states are known already, or if both batches together
        would have more than ``max_tokens`` tokens, pads included.
        """
        longest = max([batch.ids.shape[1], *map(len, self._prompts)])
        full = longest * (len(batch.ids) + len(self._prompts)) > max_tokens
        if self._states is not None or not self._prompts or full:
            return None
        return self._base.batch([Row.of_prompt(prompt) for prompt in self._prompts])

    @contextmanager
    def reading(self, appended: Batch, first: int) -> Iterator[None]:
        """Read the states in the one forward inside ``with``, whose rows from number ``first`` on
        are ``appended``."""
        rows, last = _last_tokens(appended)
        with _reading(self._base, self.layers, (rows + first, last)) as states:
            yield
        self._states = self._keep(_stacked(states))

    def states(self) -> torch.Tensor:
        """float32 ``[prompts, layers, hidden]``, reduced by ``keep``; runs the base if no other
        forward has been read."""
        if self._states is None:
            self._states = last_token_states(self._base, self._prompts, self.layers, self._keep)
        return self._states


def projection_inputs(base: Base, prompts: Sequence[Ids]) -> list[torch.Tensor]:
    """For each prompt, the input of the edited projection: float32 ``[tokens, in]``."""
    inputs: list[torch.Tensor] = []

    def read(args: tuple[Any, ...], _: dict[str, Any]) -> None:
        inputs.append(args[0].float().clone())
        hooks.stop_forward()

    def run(members: list[int]) -> torch.Tensor:
        batch = base.batch([Row.of_prompt(prompts[i]) for i in members])
        with base.probing(), hooks.stopping_early():
            base.model(input_ids=batch.ids, use_cache=False)
        # Some blocks flatten the input of their MLP to [rows * seq, in].
        return inputs.pop().view(*batch.ids.shape, -1)

    with torch.inference_mode(), hooks.reading_inputs(base.model, {base.projection.path: read}):
        return in_batches([len(prompt) for prompt in prompts], Budget(rows=512, pads=0), run)


def _states(
    base: Base, ids: torch.Tensor, layers: Sequence[int], index: TokenIndex, *, shared: bool
) -> torch.Tensor:
    """float32 ``[tokens, layers, hidden]``, on the CPU: the states at ``index`` in one forward,
    which ends once they are read."""
    subsets = {}
    if len(index[0]) >= MIN_SUBSET and not shared:
        # Nothing uses the output of the last block at other tokens.
        last = tokenwise_modules(base.model, base.architecture.block(layers[-1]))
        wasted = max_wasted_on(ids.device)
        subsets = {
            path: TokenSubset(base.model.get_submodule(path), lambda: index, wasted)
            for path, alone in last.items()
            if alone
        }
    with (
        torch.inference_mode(),
        base.probing(),
        hooks.swapped(base.model, subsets),
        _reading(base, layers, index, stops=True) as states,
        hooks.stopping_early(),
    ):
        base.model(input_ids=ids, use_cache=False)
    return _stacked(states)


@contextmanager
def _reading(
    base: Base, layers: Sequence[int], index: TokenIndex, *, stops: bool = False
) -> Iterator[list[torch.Tensor]]:
    """Inside ``with``, a list of the outputs of the blocks ``layers`` at ``index``, as they come.
    ``stops``: the last one ends the forward."""
    states: list[torch.Tensor] = []

    def read(output: Any) -> None:
        hidden = hooks.hidden_of(output)
        states.append(hidden[on(hidden.device, index)].float())
        if stops and len(states) == len(layers):
            hooks.stop_forward()

    with hooks.reading_outputs(base.model, {base.architecture.block(i).path: read for i in layers}):
        yield states


def _stacked(by_layer: Sequence[torch.Tensor]) -> torch.Tensor:
    """float32 ``[tokens, layers, hidden]``, on the CPU."""
    return torch.stack([states.cpu() for states in by_layer], 1)


def _last_tokens(batch: Batch) -> TokenIndex:
    """The index of the last token of each row of a batch that is padded on the right."""
    last = batch.mask.sum(1) - 1  # [rows]
    return torch.arange(len(last), device=last.device), last
