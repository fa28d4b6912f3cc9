"""Training a relation encoder on the corpus of phrasings.

Two texts that ask one relation are pulled together, and all others are pushed apart (in-batch
contrastive loss, in both directions). Half of a batch are relations of one kind of subject, as
questions about the same subject are the hardest to tell apart. Hinges hold equal questions above
``EQUAL``, and other questions about the subject or about another entity beside it below
``UNEQUAL``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import nn
from torch.nn import functional as F

from editors.scope.relation.encoders.base import RelationEncoder
from editors.scope.relation.examples import Examples

RELATIONS = 20  # of a batch
NEAR = 2  # texts of each relation that ask something else about the subject
OTHERS = 2  # and that ask about another entity, or of another time or amount
TEMPERATURE = 0.05
EQUAL, UNEQUAL = 0.75, 0.35  # cosines
HINGE = 2.0  # the weight of the hinges
FRAMED = 0.6  # the share of second texts that stand in surroundings
WARM_UP = 0.1  # the share of steps in which the rate rises
SAMPLE = 800  # texts that an encoder sees before training


@dataclass(frozen=True, slots=True, eq=False)
class TrainingTexts:
    """What an encoder reads of the texts of one relation. ``kind``: of its subjects; ``names``: its
    phrasings, folded, by which relations that ask alike are known."""

    kind: str
    names: frozenset[str]
    phrasings: Sequence[torch.Tensor]
    framed: Sequence[torch.Tensor]
    near: Sequence[torch.Tensor]
    others: Sequence[torch.Tensor]


def texts_of(examples: Sequence[Examples], read: Sequence[torch.Tensor]) -> list[TrainingTexts]:
    """What was ``read`` of the texts of ``examples``, in order, by relation."""
    found, rest = [], iter(read)

    def take(texts: Sequence[str]) -> list[torch.Tensor]:
        return [next(rest) for _ in texts]

    for example in examples:
        names = frozenset(_folded(example.phrasings))
        parts = (example.phrasings, example.framed, example.near, example.others)
        found.append(TrainingTexts(example.relation.kind, names, *map(take, parts)))
    return found


def train_encoder(
    encoder: RelationEncoder, relations: Sequence[TrainingTexts], steps: int, random: Random
) -> None:
    """Train ``encoder`` on ``relations`` for so many ``steps``."""
    every = [text for texts in relations for text in texts.phrasings]
    encoder.prepare(random.sample(every, min(SAMPLE, len(every))))
    module, rate = encoder.trained.train(), encoder.learning_rate
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=WARM_UP
    )
    for _ in range(steps):
        loss = _loss(encoder, _batch(relations, random), random)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    module.eval()


def _batch(relations: Sequence[TrainingTexts], random: Random) -> list[TrainingTexts]:
    """Relations of one batch: half of them of one kind, as far as there are so many."""
    kind = random.choice(relations).kind
    alike = [texts for texts in relations if texts.kind == kind]
    chosen = random.sample(alike, min(len(alike), RELATIONS // 2))
    rest = [texts for texts in relations if texts not in chosen]
    return chosen + random.sample(rest, min(len(rest), RELATIONS - len(chosen)))


def _loss(
    encoder: RelationEncoder, chosen: Sequence[TrainingTexts], random: Random
) -> torch.Tensor:
    first, second, other = [], [], []
    for texts in chosen:
        pair = random.sample(texts.phrasings, 2)
        if texts.framed and random.random() < FRAMED:
            pair[1] = random.choice(texts.framed)
        first.append(pair[0])
        second.append(pair[1])
        other += random.choices(texts.near, k=NEAR)
        other += random.choices(texts.others or texts.near, k=OTHERS)
    count = len(chosen)
    directions = encoder.encode([*first, *second, *other])
    one, two = directions[:count], directions[count : 2 * count]
    others = directions[2 * count :]
    own = torch.eye(count, dtype=torch.bool)
    alike = torch.tensor([[bool(a.names & b.names) for b in chosen] for a in chosen])
    same_kind = torch.tensor([[a.kind == b.kind for b in chosen] for a in chosen])
    # A question that is unlike one relation may be another relation of the same kind.
    own_others = own.repeat_interleave(NEAR + OTHERS, 1)
    usable = own_others | ~same_kind.repeat_interleave(NEAR + OTHERS, 1)
    between = one @ two.T  # [relations, relations]
    to_others, from_others = one @ others.T, two @ others.T  # [relations, others]
    ruled_out = alike & ~own
    rows = torch.cat(
        [
            between.masked_fill(ruled_out, -1.0),
            to_others.masked_fill(~usable, -1.0),
            (one @ one.T).masked_fill(alike, -1.0),
        ],
        1,
    )
    columns = torch.cat(
        [between.T.masked_fill(ruled_out, -1.0), from_others.masked_fill(~usable, -1.0)], 1
    )
    labels = torch.arange(count)
    contrast = sum(F.cross_entropy(part / TEMPERATURE, labels) for part in (rows, columns))
    equal = F.relu(EQUAL - between.diagonal()).mean()
    unequal = F.relu(torch.cat([to_others[own_others], from_others[own_others]]) - UNEQUAL).mean()
    return contrast + HINGE * (equal + unequal)


def _folded(texts: Iterable[str]) -> list[str]:
    return [" ".join(re.findall(r"\w+", text.casefold())) for text in texts]
