"""Heads with roles: an experiment towards several heads for memory and several for the passage.

In models that grew up on the open web, heads of both kinds are found (PH3, arXiv 2402.18154). A
model of four million parameters, left alone, hangs its memory on a head of the first layer, and
pruning that for the passage ruins recall. So it is trained on with heads taken away at random. In
rows that show a conflict, each head of a role has an equal say: the more of memory's heads are
gone, the likelier the passage is to be followed, and the other way round. All other rows keep their
answers whatever is taken. In half of all rows the lower blocks read nothing where the answer
stands: what it needs is gathered on the subject first and brought over by heads further up (as Geva
et al., arXiv 2304.14767, find in real models).

What pruning can do in such a model was put there: it shows that the tool finds such heads and uses
them as it says, not how well pruning does elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch
from transformers import LlamaForCausalLM

Place = tuple[int, int]  # layer, head

LAYERS, HEADS = 8, 8
CONTEXT: tuple[Place, ...] = ((5, 4), (6, 0), (6, 1), (6, 2), (6, 3), (7, 2), (7, 3), (7, 4))
MEMORY: tuple[Place, ...] = ((4, 0), (4, 1), (4, 2), (5, 0), (5, 1), (5, 7))
"""The heads that did most for each side in the model of the first phase, in the upper half."""

SAY = 6.0  # of all heads of a role together, in the units of a passage's persuasion
EARLY = 0.5  # share of the rows in which the lower half of the blocks is silent at the answer
SWAPPED = 0.5  # share of conflicts in which a head taken away speaks of another row instead
EVERYWHERE = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]


@dataclass(frozen=True, slots=True)
class Taken:
    """What is taken from a row.

    ``heads``: those silenced (or, where ``swapped``, given another row's output); ``early``: the
    lower blocks are silent at the answer; ``shift``: how much likelier the passage is followed.
    """

    heads: tuple[Place, ...] = ()
    swapped: bool = False
    early: bool = False
    shift: float = 0.0


NOTHING = Taken()


def draw(rng: Random, kind: str, share: float) -> Taken:
    """What is taken from a row of this kind: nothing, any heads, memory's or the passage's.

    ``share``: of rows from which something is taken.
    """
    heads: set[Place] = set()
    what = 1 - (1 - rng.random()) / share  # below 0: nothing
    if 0 <= what < 3 / 7:
        rate = rng.random() * 0.3
        heads = {place for place in EVERYWHERE if rng.random() < rate}
    elif what >= 3 / 7:
        role = MEMORY if what < 5 / 7 else CONTEXT
        rate = rng.random()
        heads = {place for place in role if rng.random() < rate}
        heads |= {place for place in EVERYWHERE if rng.random() < 0.05}
        if rng.random() < 0.4:
            heads |= set(role)
    shift = SAY * (_share(heads, MEMORY) - _share(heads, CONTEXT))
    swapped = kind == "conflict" and rng.random() < SWAPPED
    early = kind != "neutral" and rng.random() < EARLY
    return Taken(tuple(sorted(heads)), swapped, early, shift)


def _share(heads: set[Place], role: tuple[Place, ...]) -> float:
    return sum(place in heads for place in role) / len(role)


class Uniform:
    """Silences each head of each row with probability ``share``: no head may own a skill."""

    def __init__(self, model: LlamaForCausalLM, share: float) -> None:
        self._share = share
        self._hooks = [
            layer.self_attn.o_proj.register_forward_pre_hook(self._hook)
            for layer in model.model.layers
        ]

    def take(self, labels: torch.Tensor, taken: list[Taken]) -> None:
        """Nothing to prepare: each layer draws for itself."""

    def _hook(self, module: torch.nn.Module, args: tuple) -> tuple:
        x = args[0]  # [batch, seq, heads * head_dim]
        keep = (torch.rand(x.shape[0], 1, HEADS, 1) >= self._share).to(x.dtype)
        return ((x.unflatten(-1, (HEADS, -1)) * keep / (1 - self._share)).flatten(-2),)

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


class Roles:
    """Takes from each row what was drawn for it."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self._keep = self._swapped = self._silent = torch.zeros(0)
        self._hooks = [
            layer.self_attn.o_proj.register_forward_pre_hook(self._hook(number))
            for number, layer in enumerate(model.model.layers)
        ]

    def take(self, labels: torch.Tensor, taken: list[Taken]) -> None:
        """For the next batch; ``labels`` ``[batch, seq]``, -100 where nothing is asked."""
        self._keep = torch.ones(len(labels), LAYERS, HEADS)
        for row, t in enumerate(taken):
            for layer, head in t.heads:
                self._keep[row, layer, head] = 0
        self._swapped = torch.tensor([t.swapped for t in taken])
        asked = torch.nn.functional.pad(labels[:, 1:] != -100, (0, 1))  # [batch, seq]
        self._silent = asked & torch.tensor([t.early for t in taken])[:, None]

    def _hook(self, layer: int):
        def hook(module: torch.nn.Module, args: tuple) -> tuple:
            heads = args[0].unflatten(-1, (HEADS, -1))  # [batch, seq, heads, head_dim]
            keep = self._keep[:, layer, :].to(heads.dtype)[:, None, :, None]
            other = heads.roll(1, 0) * self._swapped.to(heads.dtype)[:, None, None, None]
            x = (heads * keep + other * (1 - keep)).flatten(-2)
            if layer < LAYERS // 2:
                x = x.masked_fill(self._silent[..., None], 0.0)
            return (x,)

        return hook

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
