"""The side memory: shards of masked changes to one projection, and the module that applies them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from editors.errors import EditorError, StateMismatch

DRAWN_AT_ONCE = 1 << 20  # words of a mask's generator
DRAWING = 4  # threads: more get in the way of what goes on beside
DENSE_SHARDS_KEPT = 16  # dense copies held at once; a shard is unpacked when a row needs it


@dataclass(frozen=True, slots=True)
class Mask:
    """The entries of a projection that a shard may change, drawn at random (WISE section 2.3.2).

    Each entry of ``shape`` (out, in) is in with probability ``ratio``. A mask is known by its
    ``seed``: the counter-based generator behind it gives the same bits on every machine and with
    every release, so the bits themselves need not be kept.
    """

    shape: tuple[int, int]
    ratio: float
    seed: int

    def entries(self) -> torch.Tensor:
        """bool ``[out, in]``."""
        rows, columns = self.shape
        words = -(-rows * columns // 2)  # of 64 bits, for two entries each
        least = round(self.ratio * 2**32)
        below = np.empty(2 * words, dtype=bool)

        def draw(first: int) -> None:
            drawn = _philox(self.seed, first, min(DRAWN_AT_ONCE, words - first))
            below[2 * first : 2 * (first + len(drawn))] = drawn.view("<u4") < least

        with ThreadPoolExecutor(min(DRAWING, torch.get_num_threads())) as threads:
            list(threads.map(draw, range(0, words, DRAWN_AT_ONCE)))
        return torch.from_numpy(below[: rows * columns]).view(rows, columns)

    @property
    def count(self) -> int:
        """How many entries are in."""
        return int(self.entries().count_nonzero())


def _philox(key: int, first: int, count: int) -> npt.NDArray[np.uint64]:
    """``[count]`` words from word ``first``, a multiple of four, of the generator's stream."""

    def there() -> np.random.Philox:
        generator = np.random.Philox(key=key)
        generator.advance(first // 4)  # a count gives four words
        return generator

    # Lets other threads run meanwhile. What it makes of the stream may change with a release, the
    # stream itself may not.
    drawn = np.random.Generator(there()).integers(2**64 - 1, size=count, dtype="u8", endpoint=True)
    if drawn[-1] != there().advance((count - 1) // 4).random_raw(4)[(count - 1) % 4]:
        drawn = there().random_raw(count)
    return drawn.astype("<u8", copy=False)


class Memory(Protocol):
    """A change to the edited projection that a row can be sent through."""

    @property
    def threshold(self) -> float: ...

    def delta(self) -> torch.Tensor:
        """float32 ``[out, in]``: what it adds to the main memory's weight."""
        ...


@dataclass(frozen=True, slots=True)
class Shard:
    """The change that a group of facts made to the edited projection, on the shard's mask only.

    ``facts``: ids in the order of training. ``values``: ``[mask.count]``, the change of each masked
    entry in row-major order, in the dtype that the base computes in. ``threshold``: the smallest
    routing activation over the shard's edits (WISE Alg. 1; infinite: not measured).
    """

    facts: tuple[str, ...]
    mask: Mask
    values: torch.Tensor
    threshold: float = float("inf")

    def delta(self) -> torch.Tensor:
        """float32 ``[out, in]``: zero outside the mask.

        Raises:
            StateMismatch: there are not as many values as masked entries.
        """
        inside = self.mask.entries()
        masked = int(inside.count_nonzero())
        if len(self.values) != masked:
            raise StateMismatch(
                f"a shard has {len(self.values)} values for {masked} masked entries",
                "`editcli verify`",
            )
        return torch.zeros(self.mask.shape).masked_scatter_(inside, self.values.float())

    def packed(self) -> dict[str, torch.Tensor]:
        """The shard as tensors to save: what its mask is drawn from, the values, the threshold."""
        return {
            "shape": torch.tensor(self.mask.shape),
            "ratio": torch.tensor([self.mask.ratio], dtype=torch.float64),
            "seed": torch.tensor([self.mask.seed]),
            "values": self.values.contiguous(),
            "threshold": torch.tensor([self.threshold]),
        }

    @staticmethod
    def unpacked(facts: Sequence[str], tensors: Mapping[str, torch.Tensor]) -> Shard:
        """The shard that :meth:`packed` gave ``tensors`` for.

        Raises:
            StateMismatch: the tensors do not fit together.
        """
        try:
            rows, columns = tensors["shape"].tolist()
            mask = Mask((rows, columns), float(tensors["ratio"]), int(tensors["seed"]))
            values, threshold = tensors["values"], float(tensors["threshold"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise StateMismatch(f"a shard's tensors do not fit together: {error}") from error
        if not values.is_floating_point() or values.ndim != 1:
            raise StateMismatch(f"a shard's values are {values.dtype} {list(values.shape)}")
        return Shard(tuple(facts), mask, values, threshold)


@dataclass(frozen=True, slots=True)
class Merged:
    """Several shards as one: ``change`` float32 ``[out, in]``, their smallest ``threshold``."""

    change: torch.Tensor
    threshold: float

    def delta(self) -> torch.Tensor:
        return self.change


class SideMemoryLinear(nn.Module):
    """A projection with its side memory: each row goes through main or one shard.

    Where rows go is told by :meth:`route` and kept while decoding. Rows on main memory get exactly
    what the base module gives them. ``on_arrival``: called once, when the next forward gets here.
    """

    def __init__(self, base_layer: nn.Module, shards: Sequence[Memory]) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.on_arrival: Callable[[], None] | None = None
        self._shards = list(shards)
        self._routed = 0  # rows
        self._rows_of: dict[int, torch.Tensor] = {}  # of each shard in use, int64
        self._dense: OrderedDict[tuple[int, torch.device, torch.dtype], torch.Tensor] = (
            OrderedDict()
        )

    def route(self, shards: Sequence[int]) -> None:
        """Send row ``i`` of the batches to come through ``shards[i]``; through main memory for -1.

        Of no rows at all: every row of any batch goes through main memory.
        """
        rows_of: dict[int, list[int]] = {}
        for row, shard in enumerate(shards):
            if shard >= 0:
                rows_of.setdefault(shard, []).append(row)
        self._routed = len(shards)
        self._rows_of = {shard: torch.tensor(rows_of[shard]) for shard in sorted(rows_of)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[batch, seq, in]`` -> ``[batch, seq, out]``; also of rows that a block flattened.

        Raises:
            EditorError: there are not as many rows as were routed.
        """
        main: torch.Tensor = self.base_layer(x)
        if self.on_arrival is not None:
            settle, self.on_arrival = self.on_arrival, None
            settle()
        if not self._rows_of:
            return main
        rows = self._routed
        if x.ndim == 2 and x.shape[0] % rows == 0:  # [batch * seq, in]
            whole = self._with_side(
                x.view(rows, -1, x.shape[-1]), main.view(rows, -1, main.shape[-1])
            )
            return whole.flatten(0, 1)
        if x.ndim == 2 or rows != x.shape[0]:
            raise EditorError(
                f"{x.shape[0]} rows were given to a side memory that routed {rows}",
                "start a new generation",
            )
        return self._with_side(x, main)

    def _with_side(self, x: torch.Tensor, main: torch.Tensor) -> torch.Tensor:
        """``main`` ``[batch, seq, out]`` with what each row's shard adds to it."""
        whole = main
        for shard, rows in self._rows_of.items():
            delta = self._delta(shard, x.device, x.dtype)
            if len(rows) == len(x):
                return main + F.linear(x, delta)
            if whole is main:
                whole = main.clone()
            at = rows.to(x.device)
            whole.index_add_(0, at, F.linear(x[at], delta))
        return whole

    def _delta(self, shard: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        key = (shard, device, dtype)
        if key not in self._dense:
            self._dense[key] = self._shards[shard].delta().to(device, dtype)
            # Never fewer than a step needs: it would unpack them again at every token.
            if len(self._dense) > max(DENSE_SHARDS_KEPT, len(self._rows_of)):
                self._dense.popitem(last=False)
        self._dense.move_to_end(key)
        return self._dense[key]
