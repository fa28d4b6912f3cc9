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
from editors.scope.base import Tensors, Wording
from editors.scope.corpus import Corpus
from editors.scope.relation.encoder import RelationEncoder, layers_read, states_of
from editors.scope.relation.examples import examples_of
from editors.scope.relation.training import texts_of, train_encoder

STEPS_A_RELATION, MOST_STEPS = 4, 800  # more steps do not help
SEED = 0
MIN_RELATIONS = 20
THRESHOLD = 0.6  # on cosine: the direction of a prompt and the nearest of a fact
RECOGNISED = 0.88  # on cosine: the direction of a fact's prompt and the mean of its relation


class Calibration:
    """The encoder, the blocks that it reads (``layers``), and the relations of the corpus.

    ``means``: float32 ``[relations, DIMENSIONS]``, the mean direction of the phrasings of each;
    ``wordings``: for each, its phrasings.
    """

    def __init__(self, tensors: Tensors) -> None:
        """``tensors``: the result of :func:`calibrate`; raises StateMismatch if a part is
        missing."""
        try:
            self.encoder = RelationEncoder.from_tensors(tensors)
            self.layers: list[int] = tensors["layers"].tolist()
            self.means = F.normalize(tensors["means"].float(), dim=-1)
            wordings = json.loads(bytes(tensors["wordings"].tolist()))
        except KeyError as missing:
            raise StateMismatch(
                f"the calibration of the scope lacks {missing.args[0]!r}", "`editcli verify`"
            ) from missing
        self.wordings: list[list[Wording]] = [
            [(form, text) for form, text in of_relation] for of_relation in wordings
        ]

    def directions_of(self, base: Base, texts: Sequence[str]) -> torch.Tensor:
        """float32 ``[texts, DIMENSIONS]``: the directions of ``texts``, each once through the
        base."""
        different = list(dict.fromkeys(texts))
        found = self.encoder.directions(states_of(base, different, self.layers))
        number = {text: i for i, text in enumerate(different)}
        return found[[number[text] for text in texts]]

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
    texts = texts_of(examples, states)
    encoder = train_encoder(texts, min(MOST_STEPS, STEPS_A_RELATION * len(texts)), SEED)
    means = [encoder.directions(of_relation.phrasings).mean(0) for of_relation in texts]
    wordings = [relation.phrasings for relation in relations]
    return {
        **encoder.tensors(),
        "layers": torch.tensor(layers),
        "means": torch.stack(means).half(),
        "wordings": torch.tensor(list(json.dumps(wordings).encode()), dtype=torch.uint8),
    }
