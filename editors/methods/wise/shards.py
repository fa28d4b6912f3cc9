"""Shards: the change of one projection by some facts, on a random mask."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from editors.errors import StateMismatch

DRAWN_AT_ONCE = 1 << 20  # 64-bit words of the generator of a mask
DRAWING_THREADS = 4  # more would slow down what runs at the same time

Group = tuple[str, ...]
"""The ids of facts that were trained together."""


@dataclass(frozen=True, slots=True)
class Mask:
    """The entries of a projection that a shard may change, drawn at random (WISE, arXiv 2405.14768,
    section 2.3.2).

    Each entry of ``shape`` (out, in) is in the mask with probability ``ratio``. Only the ``seed``
    is stored: the bits come from a counter-based generator, which gives the same bits on every
    machine and with every release.
    """

    shape: tuple[int, int]
    ratio: float
    seed: int

    def entries(self) -> torch.Tensor:
        """bool ``[out, in]``: True for the entries in the mask."""
        rows, columns = self.shape
        words = -(-rows * columns // 2)  # of 64 bits; each word decides two entries
        bound = round(self.ratio * 2**32)
        inside = np.empty(2 * words, dtype=bool)

        def draw(first: int) -> None:
            drawn = _philox(self.seed, first, min(DRAWN_AT_ONCE, words - first))
            inside[2 * first : 2 * (first + len(drawn))] = drawn.view("<u4") < bound

        with ThreadPoolExecutor(min(DRAWING_THREADS, torch.get_num_threads())) as threads:
            list(threads.map(draw, range(0, words, DRAWN_AT_ONCE)))
        return torch.from_numpy(inside[: rows * columns]).view(rows, columns)


def _philox(key: int, first: int, count: int) -> npt.NDArray[np.uint64]:
    """``[count]`` words of the Philox stream of ``key``, from word ``first``, a multiple of
    four."""

    def stream() -> np.random.Philox:
        generator = np.random.Philox(key=key)
        generator.advance(first // 4)  # the generator makes four words at a time
        return generator

    # `integers` lets other threads run meanwhile, but numpy may change how it uses the stream. The
    # stream is fixed, so the last word is compared with it, and `random_raw` is the fallback.
    drawn = np.random.Generator(stream()).integers(2**64 - 1, size=count, dtype="u8", endpoint=True)
    if drawn[-1] != stream().advance((count - 1) // 4).random_raw(4)[(count - 1) % 4]:
        drawn = stream().random_raw(count)
    return drawn.astype("<u8", copy=False)


@dataclass(frozen=True, slots=True)
class Shard:
    """The change of the edited projection by some facts, on the shard's mask only.

    ``groups``: the ids of the facts that were trained together, in the order of training. The
    values are a function of the base, the settings, the number of the shard, the groups, and the
    facts that were in force at each training. ``values``: ``[masked]``, the change of each masked
    entry in row-major order, in the dtype that the base computes in; empty before the first
    training. ``threshold``: the smallest routing activation over its edits (WISE Alg. 1); infinite
    if not measured.
    """

    groups: tuple[Group, ...]
    mask: Mask
    values: torch.Tensor
    threshold: float = float("inf")

    @property
    def facts(self) -> Group:
        """The ids in the shard, in the order in which they were entered."""
        return tuple(dict.fromkeys(fact for group in self.groups for fact in group))

    def delta(self) -> torch.Tensor:
        """float32 ``[out, in]``: the change, zero outside the mask.

        Raises:
            StateMismatch: the number of values is not the number of masked entries.
        """
        entries = self.mask.entries()
        masked = int(entries.count_nonzero())
        if len(self.values) != masked:
            raise StateMismatch(
                f"a shard has {len(self.values)} values for {masked} masked entries",
                "`editcli verify`",
            )
        return torch.zeros(self.mask.shape).masked_scatter_(entries, self.values.float())

    def tensors(self) -> dict[str, torch.Tensor]:
        """The shard without its groups, as tensors to save. Of the mask, the seed is saved and not
        the bits."""
        return {
            "shape": torch.tensor(self.mask.shape),
            "ratio": torch.tensor([self.mask.ratio], dtype=torch.float64),
            "seed": torch.tensor([self.mask.seed]),
            "values": self.values.contiguous(),
            "threshold": torch.tensor([self.threshold]),
        }

    @staticmethod
    def from_tensors(groups: tuple[Group, ...], tensors: Mapping[str, torch.Tensor]) -> Shard:
        """The shard that :meth:`tensors` wrote.

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
    """Several shards as one memory. ``change``: float32 ``[out, in]``; ``threshold``: the smallest
    of the shards."""

    change: torch.Tensor
    threshold: float

    def delta(self) -> torch.Tensor:
        return self.change


Memory = Shard | MergedShards
"""A side memory: a change of the edited projection that rows can be routed to. ``delta()``, float32
``[out, in]``, is what it adds to the weight of the main memory."""
