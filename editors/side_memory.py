"""The side memory: shards of masked changes to one projection, and the module that applies them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from editors.errors import EditorError, StateMismatch

DENSE_SHARDS_KEPT = 16  # dense copies held at once; a shard is unpacked when a row needs it


def random_mask(shape: tuple[int, int], ratio: float, seed: int) -> torch.Tensor:
    """bool ``[out, in]``: each entry is in with probability ``ratio`` (WISE section 2.3.2).

    The same ``shape``, ``ratio`` and ``seed`` give the same mask.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator) < ratio


@dataclass(frozen=True, slots=True)
class Shard:
    """The change that a group of facts made to the edited projection, on the shard's mask only.

    ``facts``: ids in the order of training. ``mask``: bool ``[out, in]``. ``values``: float32
    ``[mask.sum()]``, the change of each masked entry in row-major order. ``threshold``: the
    smallest routing activation over the shard's edits (WISE Alg. 1; infinite: not measured).
    """

    facts: tuple[str, ...]
    mask: torch.Tensor
    values: torch.Tensor
    threshold: float = float("inf")

    def delta(self) -> torch.Tensor:
        """float32 ``[out, in]``: zero outside the mask."""
        dense = torch.zeros(self.mask.shape)
        dense[self.mask] = self.values
        return dense

    def packed(self) -> dict[str, torch.Tensor]:
        """The shard as tensors to save: the mask as bits, the values, the threshold."""
        flat = self.mask.flatten()
        padding = -len(flat) % 8
        bits = torch.cat([flat, flat.new_zeros(padding)]).view(-1, 8).to(torch.uint8)
        powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)
        return {
            "mask_bits": (bits * powers).sum(1, dtype=torch.uint8),
            "shape": torch.tensor(self.mask.shape),
            "values": self.values.contiguous(),
            "threshold": torch.tensor([self.threshold]),
        }

    @staticmethod
    def unpacked(facts: Sequence[str], tensors: dict[str, torch.Tensor]) -> Shard:
        """The shard that :meth:`packed` gave ``tensors`` for.

        Raises:
            StateMismatch: the tensors do not fit together.
        """
        try:
            rows, columns = tensors["shape"].tolist()
            powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)
            bits = (tensors["mask_bits"][:, None] & powers) != 0
            mask = bits.flatten()[: rows * columns].view(rows, columns)
            values = tensors["values"]
            threshold = float(tensors["threshold"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise StateMismatch(f"a shard's tensors do not fit together: {error}") from error
        if len(values) != int(mask.sum()):
            raise StateMismatch(
                f"a shard has {len(values)} values for {int(mask.sum())} masked entries",
                "`editcli verify`",
            )
        return Shard(tuple(facts), mask, values, threshold)


class SideMemoryLinear(nn.Module):
    """A projection with its side memory: each row goes through main or one shard.

    ``routes``: the shard of each row of the batch, -1 for main memory; it is set by whoever
    decides (see :mod:`editors.routing`) and kept while decoding. Rows on main memory get exactly
    what the base module gives them.
    """

    def __init__(self, base_layer: nn.Module, shards: Sequence[Shard]) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.routes: torch.Tensor | None = None
        self._shards = list(shards)
        self._dense: OrderedDict[tuple[int, torch.device, torch.dtype], torch.Tensor] = (
            OrderedDict()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[batch, seq, in]`` -> ``[batch, seq, out]``; also of rows that a block flattened."""
        main: torch.Tensor = self.base_layer(x)
        if self.routes is None or not bool((self.routes >= 0).any()):
            return main
        if x.ndim == 2 and x.shape[0] % len(self.routes) == 0:  # [batch * seq, in]
            rows = len(self.routes)
            split = self._routed(x.view(rows, -1, x.shape[-1]), main.view(rows, -1, main.shape[-1]))
            return split.flatten(0, 1)
        if x.ndim == 2 or len(self.routes) != x.shape[0]:
            raise EditorError(
                f"{x.shape[0]} rows were given to a side memory that routed {len(self.routes)}",
                "start a new generation",
            )
        return self._routed(x, main)

    def _routed(self, x: torch.Tensor, main: torch.Tensor) -> torch.Tensor:
        """``main`` ``[batch, seq, out]`` with what each row's shard adds to it."""
        assert self.routes is not None
        result = main.clone()
        for shard in sorted(set(self.routes.tolist())):
            if shard >= 0:
                rows = (self.routes == shard).nonzero().squeeze(1)
                side = F.linear(x[rows], self._delta(shard, x.device, x.dtype))
                result[rows] = main[rows] + side
        return result

    def _delta(self, shard: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        key = (shard, device, dtype)
        if key not in self._dense:
            self._dense[key] = self._shards[shard].delta().to(device, dtype)
            if len(self._dense) > DENSE_SHARDS_KEPT:
                self._dense.popitem(last=False)
        self._dense.move_to_end(key)
        return self._dense[key]
