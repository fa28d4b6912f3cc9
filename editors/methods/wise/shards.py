"""Shards: what a group of facts changes in one projection, on a random mask of its own."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from editors.errors import StateMismatch

DRAWN_AT_ONCE = 1 << 20  # words of a mask's generator
DRAWING_THREADS = 4  # more get in the way of what runs beside

Group = tuple[str, ...]
"""Ids of facts that were trained together."""


@dataclass(frozen=True, slots=True)
class Mask:
    """The entries of a projection that a shard may change, drawn at random (WISE section 2.3.2).

    Each entry of ``shape`` (out, in) is in with probability ``ratio``. A mask is known by its
    ``seed``: the counter-based generator behind it gives the same bits on every machine and with
    every release, so the bits themselves need not be stored.
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

        with ThreadPoolExecutor(min(DRAWING_THREADS, torch.get_num_threads())) as threads:
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
    # stream itself may not: so the last word is compared.
    drawn = np.random.Generator(there()).integers(2**64 - 1, size=count, dtype="u8", endpoint=True)
    if drawn[-1] != there().advance((count - 1) // 4).random_raw(4)[(count - 1) % 4]:
        drawn = there().random_raw(count)
    return drawn.astype("<u8", copy=False)


class Memory(Protocol):
    """A change to the edited projection that a row can be sent through."""

    @property
    def threshold(self) -> float:
        """The smallest routing activation over its edits (WISE Alg. 1; infinite: not measured)."""
        ...

    def delta(self) -> torch.Tensor:
        """float32 ``[out, in]``: what it adds to the main memory's weight."""
        ...


@dataclass(frozen=True, slots=True)
class Shard:
    """The change that some facts made to the edited projection, on the shard's mask only.

    ``groups``: the ids of the facts that were trained together, group by group in order. The shard
    is a function of the base, the settings, its number, these groups, and what it held each time.
    ``values``: ``[mask.count]``, the change of each masked entry in row-major order, in the dtype
    that the base computes in. ``threshold``: see :class:`Memory`.
    """

    groups: tuple[Group, ...]
    mask: Mask
    values: torch.Tensor
    threshold: float = float("inf")

    @property
    def facts(self) -> Group:
        """The ids in the shard, in the order in which they came."""
        return tuple(dict.fromkeys(fact for group in self.groups for fact in group))

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

    def tensors(self) -> dict[str, torch.Tensor]:
        """All but the groups, as tensors to save: what the mask is drawn from, not its bits."""
        return {
            "shape": torch.tensor(self.mask.shape),
            "ratio": torch.tensor([self.mask.ratio], dtype=torch.float64),
            "seed": torch.tensor([self.mask.seed]),
            "values": self.values.contiguous(),
            "threshold": torch.tensor([self.threshold]),
        }

    @staticmethod
    def from_tensors(groups: tuple[Group, ...], tensors: Mapping[str, torch.Tensor]) -> Shard:
        """The shard that :meth:`tensors` came from.

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
        return Shard(groups, mask, values, threshold)


@dataclass(frozen=True, slots=True)
class MergedShards:
    """Several shards as one: ``change`` float32 ``[out, in]``, their smallest ``threshold``."""

    change: torch.Tensor
    threshold: float

    def delta(self) -> torch.Tensor:
        return self.change
