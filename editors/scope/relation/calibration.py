"""What the signal ``relation`` knows about a base: a trained encoder, and the corpus's relations.

The encoder gives the direction of a question. The relations, with their mean directions and their
phrasings, tell which question a fact's prompt asks, and how else people ask it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random

import torch
from torch.nn import functional as F

from editors.errors import EditorError, StateMismatch
from editors.model.base_model import Base
from editors.scope.base import Settings, Tensors, Wording
from editors.scope.corpus import FORMS, Corpus, Form
from editors.scope.relation.encoders.base import RelationEncoder, directions, encoded
from editors.scope.relation.examples import examples_of
from editors.scope.relation.training import texts_of, train_encoder

STEPS_A_RELATION, MOST_STEPS = 4, 500  # more steps do not help
SEED = 0
MIN_RELATIONS = 20


class Calibration:
    """The encoder, and the relations of the corpus.

    ``by_form``: float32 ``[relations, FORMS, dimensions]``, the mean direction of the phrasings of
    each form of each relation; ``means``: ``[relations, dimensions]``, the mean of these;
    ``wordings``: for each relation, its phrasings.
    """

    def __init__(self, encoder: RelationEncoder, tensors: Tensors) -> None:
        """``tensors``: the result of :func:`calibrate`; raises StateMismatch if a part is
        missing."""
        self.encoder = encoder
        try:
            self.by_form = F.normalize(tensors["by_form"].float(), dim=-1)
            wordings = json.loads(bytes(tensors["wordings"].tolist()))
        except KeyError as missing:
            raise StateMismatch(
                f"the calibration of the scope lacks {missing.args[0]!r}", "`editcli verify`"
            ) from missing
        self.means = F.normalize(self.by_form.mean(1), dim=-1)
        self.wordings: list[list[Wording]] = [
            [(form, text) for form, text in of_relation] for of_relation in wordings
        ]

    def directions_of(self, texts: Sequence[str]) -> torch.Tensor:
        """float32 ``[texts, dimensions]``: the directions of ``texts``."""
        return directions(self.encoder, texts)

    def recognised(self, direction: torch.Tensor) -> int | None:
        """The number of the relation that a fact's prompt with ``direction`` asks; None if there is
        none like it."""
        similarity, number = (self.means @ direction).max(0)
        return int(number) if float(similarity) > self.encoder.recognised else None


def calibrate(
    encoder_type: type[RelationEncoder], base: Base, corpus: Corpus, settings: Settings
) -> dict[str, torch.Tensor]:
    """Train an encoder of ``encoder_type`` on ``corpus``, and read its questions: a
    :class:`Calibration` as named tensors. Relations that are held out are left out.

    Raises:
        EditorError: there are fewer than ``MIN_RELATIONS`` relations, a text cannot be encoded, or
            something that the encoder needs is missing.
    """
    relations = [relation for relation in corpus.relations if not relation.held_out]
    if len(relations) < MIN_RELATIONS:
        raise EditorError(
            f"a relation encoder learns from at least {MIN_RELATIONS} relations, "
            f"not {len(relations)}"
        )
    random = Random(SEED)
    examples = [examples_of(relation, corpus, random) for relation in relations]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        encoder = encoder_type.untrained(base, settings)
        read = encoder.read([text for example in examples for text in example.texts])
        texts = texts_of(examples, read)
        train_encoder(encoder, texts, min(MOST_STEPS, STEPS_A_RELATION * len(texts)), random)
    by_form = [
        _mean_by_form(example.forms, encoded(encoder, of_relation.phrasings))
        for example, of_relation in zip(examples, texts, strict=True)
    ]
    wordings = [relation.phrasings for relation in relations]
    return {
        **encoder.tensors(),
        "by_form": torch.stack(by_form).half(),
        "wordings": torch.tensor(list(json.dumps(wordings).encode()), dtype=torch.uint8),
    }


def _mean_by_form(forms: Sequence[Form], directions_of: torch.Tensor) -> torch.Tensor:
    """The mean direction of the phrasings of each form, ``[FORMS, dimensions]``, of length 1."""
    chosen = [[i for i, own in enumerate(forms) if own == form] for form in FORMS]
    means = torch.stack([directions_of[numbers].mean(0) for numbers in chosen])
    return F.normalize(means, dim=-1)
