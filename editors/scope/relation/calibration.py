"""What the signal ``relation`` knows about a base: the trained encoder, and the corpus's questions.

:class:`Questions` holds the direction of every phrasing of the corpus, of other questions about the
same subjects, and the texts. So a fact's relation can be recognised, a fact can be asked in many
forms, and a prompt that asks something else can be told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from random import Random

import torch
from torch.nn import functional as F

from editors.errors import EditorError, StateMismatch
from editors.model.base_model import Base
from editors.scope.base import Tensors
from editors.scope.corpus import Corpus, Relation
from editors.scope.relation.asking import filled
from editors.scope.relation.encoder import RelationEncoder, layers_read, states_of
from editors.scope.relation.examples import examples_of
from editors.scope.relation.training import texts_of, train_encoder

STEPS = 400
SEED = 0
MIN_RELATIONS = 20
THRESHOLD = 0.55  # on cosine: the direction of a prompt and the nearest of a fact
RECOGNISED = 0.65  # on cosine: the prompt of a fact and the mean of its relation


class Calibration:
    """The encoder, the blocks that it reads (``layers``), and the corpus's questions.

    ``directions``: float32 ``[questions, DIMENSIONS]``; ``relation_of``: int64 ``[questions]``, the
    number of the relation that a question is a phrasing of or is near to; ``is_phrasing``: bool
    ``[questions]``; ``means``: float32 ``[relations, DIMENSIONS]``; ``relations``: for each its id,
    kind and phrasings.
    """

    def __init__(self, tensors: Tensors) -> None:
        """``tensors``: the result of :func:`calibrate`; raises StateMismatch if a part is
        missing."""
        try:
            self.encoder = RelationEncoder.from_tensors(tensors)
            self.layers: list[int] = tensors["layers"].tolist()
            self.directions = F.normalize(tensors["directions"].float(), dim=-1)
            self.relation_of = tensors["relation_of"].long()
            self.is_phrasing = tensors["is_phrasing"]
            self.relations: list[Mapping[str, object]] = json.loads(
                bytes(tensors["relations"].tolist())
            )
        except KeyError as missing:
            raise StateMismatch(
                f"the calibration of the scope lacks {missing.args[0]!r}", "`editcli verify`"
            ) from missing
        phrasings, owners = self.directions[self.is_phrasing], self.relation_of[self.is_phrasing]
        sums = torch.zeros(len(self.relations), phrasings.shape[1]).index_add(0, owners, phrasings)
        self.means = F.normalize(sums, dim=-1)

    def directions_of(self, base: Base, texts: Sequence[str]) -> torch.Tensor:
        """float32 ``[texts, DIMENSIONS]``: the directions of ``texts``, each once through the
        base."""
        different = list(dict.fromkeys(texts))
        found = self.encoder.directions(states_of(base, different, self.layers))
        number = {text: i for i, text in enumerate(different)}
        return found[[number[text] for text in texts]]

    def phrasings_of(self, relation: int) -> torch.Tensor:
        """float32 ``[phrasings, DIMENSIONS]``: the directions of the phrasings of ``relation``."""
        return self.directions[self.is_phrasing & (self.relation_of == relation)]

    def questions_unlike(self, relation: int) -> torch.Tensor:
        """float32 ``[questions, DIMENSIONS]``: the questions that ask something else than
        ``relation``: those near to it, and the phrasings of other relations of its kind."""
        if relation < 0:
            return self.directions[:0]
        kinds = [row["kind"] for row in self.relations]
        alike = torch.tensor([kind == kinds[relation] for kind in kinds])
        own = self.relation_of == relation
        return self.directions[(own ^ self.is_phrasing) & alike[self.relation_of]]

    def recognised(self, direction: torch.Tensor) -> int | None:
        """The number of the relation that a fact's prompt with ``direction`` asks; None if there is
        none like it."""
        similarity, number = (self.means @ direction).max(0)
        return int(number) if float(similarity) > RECOGNISED else None


def calibrate(base: Base, corpus: Corpus) -> dict[str, torch.Tensor]:
    """Train a relation encoder on ``corpus``, and read its questions: a :class:`Calibration` as
    named tensors. Relations that are held out are left out.

    Raises:
        EditorError: there are fewer than ``MIN_RELATIONS`` relations, or a text cannot be encoded.
    """
    relations = [relation for relation in corpus.relations if not relation.held_out]
    if len(relations) < MIN_RELATIONS:
        raise EditorError(
            f"the scope `relation` learns from at least {MIN_RELATIONS} relations, "
            f"not {len(relations)}"
        )
    layers, random = layers_read(base), Random(SEED)
    examples = [examples_of(relation, corpus, random) for relation in relations]
    states = states_of(base, [text for example in examples for text in example.texts], layers)
    encoder = train_encoder(texts_of(examples, states), STEPS, SEED)
    texts, relation_of, is_phrasing = [], [], []
    for number, relation in enumerate(relations):
        questions = [(text, True) for _, text in relation.phrasings]
        for text, phrasing in (*questions, *((text, False) for text in relation.near)):
            texts.append(filled(text, "{subject}"))
            relation_of.append(number)
            is_phrasing.append(phrasing)
    directions = encoder.directions(states_of(base, texts, layers))
    return {
        **encoder.tensors(),
        "layers": torch.tensor(layers),
        "directions": directions.half(),
        "relation_of": torch.tensor(relation_of, dtype=torch.int16),
        "is_phrasing": torch.tensor(is_phrasing),
        "relations": torch.tensor(
            list(json.dumps([_described(relation) for relation in relations]).encode()),
            dtype=torch.uint8,
        ),
    }


def _described(relation: Relation) -> dict[str, object]:
    return {
        "relation": relation.relation,
        "kind": relation.kind,
        "phrasings": [[form, text] for form, text in relation.phrasings],
    }
