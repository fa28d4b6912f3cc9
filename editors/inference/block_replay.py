"""Forwards that begin at a block: the blocks below run once, and their states are reused.

A change at a block, as the pruning of one of its heads, leaves the input of this block as it was.
So forwards over the same tokens can begin there. The forward of the model itself runs the replay,
with the blocks below swapped out. So masks, positions and norms are those of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from editors.model import hooks
from editors.model.base_model import Base, is_probing

TOLERANCE = 1e-3  # the relative difference allowed between logits of replay and model
CHECKED_TOKENS = 8  # of the text that the replay is checked on

_Key = tuple[Any, ...]


@dataclass(eq=False)
class BlockInputs:
    """The inputs of the blocks ``layers``, by the token ids of the forwards that ran them.

    ``rows``: only this many rows of each forward are kept, and its other rows are known to begin as
    repetitions of them; None: all rows.
    """

    base: Base
    layers: tuple[int, ...]
    rows: int | None = None
    _states: dict[_Key, dict[int, torch.Tensor]] = field(default_factory=dict, init=False)
    _key: _Key = field(default=(), init=False)  # of the running forward
    _start: int = field(default=0, init=False)  # the block that the running forward begins at
    _tuple_size: int = field(default=0, init=False)  # of the output of a block, 0 for a tensor

    @contextmanager
    def known_up_to(self, last: int) -> Iterator[None]:
        """Inside ``with``, nothing that is attached differs between forwards over the same tokens
        below block ``last``.

        A forward begins at the highest of ``layers`` up to ``last`` whose input is known. On its
        way, it keeps the inputs of the others up to ``last``. Probing forwards run as always.
        """
        blocks = self.base.architecture.blocks
        kept = [layer for layer in self.layers if layer <= last]
        readers = {blocks[layer].path: self._keeper(layer) for layer in kept}
        readers[""] = self._beginner(kept)
        below = {
            block.path: _Skippable(self.base.model.get_submodule(block.path), block.index, self)
            for block in blocks[: max(kept, default=0)]
        }
        with hooks.swapped(self.base.model, below), hooks.reading_inputs(self.base.model, readers):
            yield

    def _beginner(self, kept: list[int]) -> hooks.InputReader:
        def read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not is_probing():
                ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
                mask = kwargs.get("attention_mask")
                self._key = (_bytes(ids[: self.rows]), None if mask is None else _bytes(mask))
                known = self._states.setdefault(self._key, {})
                self._start = max((layer for layer in kept if layer in known), default=0)

        return read

    def _keeper(self, layer: int) -> hooks.InputReader:
        def read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not is_probing() and layer > self._start:
                states = args[0] if args else kwargs["hidden_states"]
                # A copy, as some blocks add in place.
                self._states[self._key][layer] = states[: self.rows].detach().clone()

        return read

    def output_of(self, layer: int, hidden: torch.Tensor) -> Any:
        """What block ``layer`` passes on to the blocks above, given any ``hidden`` states ``[rows,
        seq, hidden]``; None if the block has to run."""
        if is_probing() or layer >= self._start:
            return None
        states = self._states[self._key][self._start]
        states = states.repeat(len(hidden) // len(states), 1, 1)
        return (states, *[None] * (self._tuple_size - 1)) if self._tuple_size else states

    def note_form(self, output: Any) -> None:
        """Note whether blocks return tuples, from the ``output`` of one."""
        self._tuple_size = len(output) if isinstance(output, tuple) else 0


class _Skippable(hooks.StandIn):
    """A block that runs only if a forward begins at it or below."""

    def __init__(self, original: torch.nn.Module, layer: int, inputs: BlockInputs) -> None:
        super().__init__(original, _layer=layer, _inputs=inputs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        output = self._inputs.output_of(self._layer, hidden)
        if output is None:
            output = self._original(*args, **kwargs)
            self._inputs.note_form(output)
        return output


def _bytes(ids: torch.Tensor) -> _Key:
    return (*ids.shape, ids.cpu().numpy().tobytes())


@torch.inference_mode()
def can_replay(base: Base) -> bool:
    """Whether forwards may begin at blocks above the first.

    They may not if blocks pass more than hidden states to each other, such as keys and values that
    several blocks share.
    """
    count = len(base.architecture.blocks)
    layers = tuple(sorted({1, count // 2, count - 1} - {0, count}))
    inputs = BlockInputs(base, layers)
    ids = torch.arange(CHECKED_TOKENS, device=base.input_device)[None] % base.vocabulary

    def logits(last: int) -> torch.Tensor:
        with inputs.known_up_to(last):
            out: torch.Tensor = base.model(input_ids=ids, use_cache=False).logits.float()
        return out

    try:
        whole = logits(count - 1)
        differences = [float((logits(layer) - whole).norm() / whole.norm()) for layer in layers]
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return False
    return all(difference <= TOLERANCE for difference in differences)
