"""Shards: the change of one projection by some facts, on a random mask or of low rank."""

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
# Entries of a first ``down`` are so many times as large as those of the projection. The larger they
# are, the less a step turns its rows.
FIRST_DOWN = 2.0
FIRST_INPUTS = 256  # inputs by which a first ``down`` is chosen; more would cost more than a step
LEAST_DIRECTION = 0.02  # of the largest; what is less is taken for rounding

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

    def factors(self, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The change with these ``values`` alone, as :meth:`dense` gives it."""
        return (self.dense(values),)

    def dense(self, values: torch.Tensor) -> torch.Tensor:
        """float32 ``[out, in]``: the change with these ``values`` at the entries in the mask, zero
        elsewhere. Raises StateMismatch if there are not as many entries."""
        entries = self.entries()
        _require_count(values, int(entries.count_nonzero()))
        return torch.zeros(self.shape).masked_scatter_(entries, values.float())

    def tensors(self) -> dict[str, torch.Tensor]:
        return {
            "shape": torch.tensor(self.shape),
            "ratio": torch.tensor([self.ratio], dtype=torch.float64),
            "seed": torch.tensor([self.seed]),
        }


def _require_count(values: torch.Tensor, count: int) -> None:
    if len(values) != count:
        raise StateMismatch(
            f"a shard has {len(values)} values where its support has {count}", "`editcli verify`"
        )


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
class LowRank:
    """The changes of a projection of ``shape`` (out, in) that are products of two small matrices,
    ``up`` ``[out, rank]`` and ``down`` ``[rank, in]`` (Hu et al., LoRA, ICLR 2022).

    They are as large as those on a mask of five percent when the entries of ``up`` are as large as
    those of the projection, and those of ``down`` ``FIRST_DOWN`` times as large; ``scale`` is what
    that takes. ``seed``: of the first ``down``.
    """

    shape: tuple[int, int]
    rank: int
    seed: int
    scale: float

    @staticmethod
    def of(weight: torch.Tensor, rank: int, seed: int) -> LowRank:
        """Changes of ``weight`` ``[out, in]``."""
        size = float(weight.float().square().mean().sqrt())
        scale = (0.05 / rank) ** 0.5 / (size * FIRST_DOWN)
        return LowRank((weight.shape[0], weight.shape[1]), rank, seed, scale)

    @property
    def count(self) -> int:
        """The number of values of both matrices."""
        return self.rank * sum(self.shape)

    def first(self, size: float, inputs: torch.Tensor) -> torch.Tensor:
        """float32 ``[count]``: values that change nothing, from which training takes few steps.

        ``up`` is zero. The rows of ``down`` are the directions in which ``inputs`` ``[tokens, in]``
        are largest, their right singular vectors, as the gradient of a dense change lies in their
        span (as in LoRA-GA, arXiv 2407.05000, without a gradient). A direction in which they are
        smaller has a larger row, so that what tells inputs apart is learnt, too. Rows for which
        there is no direction are drawn at random. ``size``: the root mean square of the
        projection's weight; of the first row, it is that times ``FIRST_DOWN``.
        """
        rows, columns = self.shape
        generator = torch.Generator().manual_seed(self.seed)
        down = torch.randn((self.rank, columns), generator=generator)
        some = inputs[:: -(-len(inputs) // FIRST_INPUTS)].float().cpu()
        # By the small one of the two products, as there are few inputs and many columns.
        squares, tokens = torch.linalg.eigh(some @ some.T)  # in ascending order
        sizes = squares.clamp(min=0).sqrt().flip(0)[: self.rank]  # singular values
        sizes = sizes[sizes > LEAST_DIRECTION * sizes[0]]
        found = tokens.flip(1)[:, : len(sizes)].T @ some  # [directions, in], of these lengths
        lengths = (columns * sizes[:1] / sizes).sqrt()
        down[: len(sizes)] = found * (lengths / sizes)[:, None]
        return torch.cat([torch.zeros(self.rank * rows), down.flatten() * (size * FIRST_DOWN)])

    def factors(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``up`` ``[out, rank]``, with the scale in it, and ``down`` ``[rank, in]``, in the dtype
        of ``values``. Raises StateMismatch if these are too many or too few."""
        _require_count(values, self.count)
        rows, columns = self.shape
        up = values[: self.rank * rows].view(rows, self.rank)
        return up * self.scale, values[self.rank * rows :].view(self.rank, columns)

    def dense(self, values: torch.Tensor) -> torch.Tensor:
        """float32 ``[out, in]``: the change with these ``values``."""
        up, down = self.factors(values.float())
        return up @ down

    def tensors(self) -> dict[str, torch.Tensor]:
        return {
            "shape": torch.tensor(self.shape),
            "rank": torch.tensor([self.rank]),
            "seed": torch.tensor([self.seed]),
            "scale": torch.tensor([self.scale], dtype=torch.float64),
        }


Support = Mask | LowRank
"""Which changes of the projection a shard can be."""


def _support(tensors: Mapping[str, torch.Tensor]) -> Support:
    """The support whose :meth:`tensors` are among these."""
    rows, columns = tensors["shape"].tolist()
    seed = int(tensors["seed"])
    if "rank" in tensors:
        return LowRank((rows, columns), int(tensors["rank"]), seed, float(tensors["scale"]))
    return Mask((rows, columns), float(tensors["ratio"]), seed)


@dataclass(frozen=True, slots=True)
class Shard:
    """The change of the edited projection by some facts, on the shard's support only.

    ``groups``: the ids of the facts that were trained together, in the order of training. The
    values are a function of the base, the settings, the number of the shard, the groups, and the
    facts that were in force at each training. ``values``: ``[count]``, those of the support: on a
    mask, the change of each masked entry in row-major order; of low rank, both matrices, one after
    the other. They are in the dtype that the base computes in, and empty before the first
    training. ``threshold``: the smallest routing activation over its edits (WISE Alg. 1); infinite
    if not measured.
    """

    groups: tuple[Group, ...]
    support: Support
    values: torch.Tensor
    threshold: float = float("inf")

    @property
    def facts(self) -> Group:
        """The ids in the shard, in the order in which they were entered."""
        return tuple(dict.fromkeys(fact for group in self.groups for fact in group))

    def delta(self) -> torch.Tensor:
        """float32 ``[out, in]``: the change.

        Raises:
            StateMismatch: the number of values is not that of the support.
        """
        return self.support.dense(self.values)

    def factors(self) -> tuple[torch.Tensor, ...]:
        """Matrices whose product is the change: one ``[out, in]`` of a mask, ``[out, rank]`` and
        ``[rank, in]`` of low rank. Raises StateMismatch as :meth:`delta` does."""
        return self.support.factors(self.values)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The shard without its groups, as tensors to save. Of a mask, the seed is saved, not the
        bits."""
        return {
            **self.support.tensors(),
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
            support = _support(tensors)
            values, threshold = tensors["values"], float(tensors["threshold"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise StateMismatch(f"a shard's tensors do not fit together: {error}") from error
        if not values.is_floating_point() or values.ndim != 1:
            raise StateMismatch(f"a shard's values are {values.dtype} {list(values.shape)}")
        return Shard(groups, support, values, threshold)


@dataclass(frozen=True, slots=True)
class MergedShards:
    """Several shards as one memory. ``change``: float32 ``[out, in]``; ``threshold``: the smallest
    of the shards."""

    change: torch.Tensor
    threshold: float

    def delta(self) -> torch.Tensor:
        return self.change

    def factors(self) -> tuple[torch.Tensor, ...]:
        return (self.change,)


Memory = Shard | MergedShards
"""A side memory: a change of the edited projection that rows can be routed to. ``delta()``, float32
``[out, in]``, is what it adds to the weight of the main memory, and the product of ``factors()``,
from left to right."""
