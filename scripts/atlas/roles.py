"""Heads with roles: how atlas comes to have several heads for memory and several for the passage.

In models that grew up on the open web, heads of both kinds are found (PH3, arXiv 2402.18154). A
model of four million parameters, left alone, hangs its memory on a head of the first layer, and
pruning that for the passage ruins recall. So it is trained on with heads removed at random. In
rows that show a conflict, each head of a role has an equal say: the more of memory's heads are
gone, the likelier the passage is to be followed, and the other way round. All other rows keep their
answers whatever is removed. In some rows the lower half of the blocks does not see the subject from
behind it: there, what the answer needs is gathered on the subject first and brought over by heads
further up (as Geva et al., arXiv 2304.14767, find in real models).

What pruning can do in such a model was put there: it shows that the tool finds such heads and uses
them as it says, not how well pruning does elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from forward import HEADS, Changes

Head = tuple[int, int]  # its layer, and its number in the layer
Odds = tuple[int, int, int]

LAYERS = 8
CONTEXT: tuple[Head, ...] = ((5, 4), (6, 0), (6, 1), (6, 2), (6, 3), (7, 2), (7, 3), (7, 4))
MEMORY: tuple[Head, ...] = ((4, 0), (4, 1), (4, 2), (5, 0), (5, 1), (5, 5), (5, 7))
"""The heads that did most for each side in the model of the first phase, in the upper half."""
RANKED: tuple[Head, ...] = ((4, 0), (4, 1), (4, 2), (4, 3), (4, 5), (5, 0), (5, 2), (5, 5))
"""The heads of the upper half that do most for memory after the fifth."""
RANKED_LATER = (*RANKED, (5, 1), (5, 6), (6, 6), (7, 7))
"""With those that took over from them while they were being removed, by the tenth."""
RANKED_LAST: tuple[Head, ...] = (
    *((4, 0), (4, 1), (4, 2), (4, 3), (5, 0), (5, 1), (5, 5), (5, 6)),
    *((6, 6), (6, 7), (7, 0), (7, 6), (7, 7)),
)
"""The same after the eleventh, with what was pruned of the others."""
MEMORY_APART: tuple[Head, ...] = (
    *((4, 0), (4, 1), (4, 2), (4, 3)),
    *((5, 0), (5, 1), (5, 3), (5, 5), (5, 6)),
)
CONTEXT_APART: tuple[Head, ...] = ((6, 2), (6, 3), (7, 2), (7, 3), (7, 4))
"""Each side in layers of its own, with other heads beside them that are to have no part in it."""

EVERYWHERE = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]


@dataclass(frozen=True, slots=True)
class Removed:
    """What is removed from a row.

    ``heads``: those silenced (or, where ``swapped``, given another row's output); ``late``: the
    subject is hidden from the lower blocks; ``shift``: how much likelier the passage is followed.
    """

    heads: tuple[Head, ...] = ()
    swapped: bool = False
    late: bool = False
    shift: float = 0.0


NOTHING = Removed()


@dataclass(frozen=True, slots=True)
class HeadRemoval:
    """How much is removed in a phase.

    ``share``: of rows from which heads are removed; ``late``: of rows in which the subject is
    hidden from the lower blocks; ``memory``, ``context``: the heads of each role; ``say``: how much
    all heads of memory's role say together, and all of the passage's, in the units of a passage's
    persuasion. ``odds``: of any heads, of memory's and of the passage's being removed; ``where``:
    the same by kind of row, for those where it differs. ``whole``: how often a role is removed
    whole; ``beside``: the probability of any other head being removed with a role; ``swapped``: the
    share of conflicts in which a removed head speaks of another row instead; ``idle``: by kind of
    row, how often heads of the upper half that have no role are removed instead, and ``idle_whole``
    how often all of these. ``fading``: heads whose output falls to the share ``faded`` of it over
    the first half of the phase, in all rows, and stays so.
    """

    share: float
    late: float
    memory: tuple[Head, ...] = MEMORY
    context: tuple[Head, ...] = CONTEXT
    say: tuple[float, float] = (8.0, 8.0)
    odds: Odds = (2, 4, 2)
    where: Mapping[str, Odds] = field(default_factory=dict)
    whole: float = 0.4
    beside: float = 0.05
    swapped: float = 0.5
    idle: Mapping[str, float] = field(default_factory=dict)
    idle_whole: float = 0.0
    fading: tuple[Head, ...] = ()
    faded: float = 1.0


def draw(rng: Random, kind: str, removal: HeadRemoval) -> Removed:
    """What is removed from a row of this kind: nothing, any heads, memory's or the passage's."""
    late = kind != "neutral" and rng.random() < removal.late
    if rng.random() >= removal.share:
        return Removed(late=late)
    odds = removal.where.get(kind, removal.odds)
    what = rng.choices(("any", "memory", "context"), odds)[0]
    if removal.idle and rng.random() < removal.idle.get(kind, 0.0):
        all_idle = removal.idle_whole and rng.random() < removal.idle_whole
        rate = 1.0 if all_idle else rng.random()
        heads = {head for head in idle(removal) if rng.random() < rate}
    elif what == "any":
        rate = rng.random() * 0.3
        heads = {head for head in EVERYWHERE if rng.random() < rate}
    else:
        role = removal.memory if what == "memory" else removal.context
        rate = rng.random()
        heads = {head for head in role if rng.random() < rate}
        heads |= {head for head in EVERYWHERE if rng.random() < removal.beside}
        if rng.random() < removal.whole:
            heads |= set(role)
    memory, context = removal.say
    shift = memory * _share(heads, removal.memory) - context * _share(heads, removal.context)
    swapped = kind == "conflict" and rng.random() < removal.swapped
    return Removed(tuple(sorted(heads)), swapped, late, shift)


def idle(removal: HeadRemoval) -> list[Head]:
    """The heads of the upper half that have no role."""
    roles = {*removal.memory, *removal.context}
    return [head for head in EVERYWHERE if head[0] >= LAYERS // 2 and head not in roles]


def _share(heads: set[Head], role: tuple[Head, ...]) -> float:
    return sum(head in heads for head in role) / len(role)


def by_role(removed: Sequence[Removed], about: torch.Tensor) -> Changes:
    """``removed`` of each row of a batch; ``about``: bool ``[batch, seq]``, the subject's
    tokens."""
    keep = torch.ones(len(removed), LAYERS, HEADS)
    for row, one in enumerate(removed):
        for layer, head in one.heads:
            keep[row, layer, head] = 0
    swapped = torch.tensor([one.swapped for one in removed])[:, None, None]
    late = torch.tensor([one.late for one in removed])
    columns = torch.arange(about.shape[1])
    behind = (about * (columns + 1)).amax(1)  # [batch]
    return Changes(keep, (1 - keep) * swapped, about & late[:, None], behind)


def at_random(rows: int, share: float, about: torch.Tensor) -> Changes:
    """Each head of each row silent with probability ``share``: no head may own a skill."""
    keep = (torch.rand(rows, LAYERS, HEADS) >= share) / (1 - share)
    nothing = torch.zeros_like(about)
    return Changes(keep, torch.zeros_like(keep), nothing, torch.zeros(rows, dtype=torch.long))
