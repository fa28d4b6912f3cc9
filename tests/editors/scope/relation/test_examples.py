"""Examples made of the shipped corpus: what asks the same names the filler, and nothing is left
open."""

from __future__ import annotations

from random import Random

import pytest

from editcli.files.corpus import read_corpus
from editors.scope.corpus import Corpus, Relation
from editors.scope.relation.asking import MARK
from editors.scope.relation.examples import capitalised, examples_of, lowered

CORPUS = read_corpus()


def of(relation: Relation, seed: int = 0) -> tuple[str, ...]:
    return examples_of(relation, CORPUS, Random(seed)).texts


@pytest.mark.parametrize("relation", CORPUS.relations, ids=lambda relation: relation.relation)
def test_every_example_is_filled(relation: Relation) -> None:
    made = examples_of(relation, CORPUS, Random(0))
    assert len(made.phrasings) == len(relation.phrasings)
    assert len(made.framed) >= 4
    assert len(made.near) >= len(relation.near)
    for text in made.texts:
        assert "{" not in text, text
        assert text == text.strip(" ")
    if relation.has_subject:
        assert all(MARK in text or MARK.capitalize() in text for text in made.phrasings)
        assert len(made.others) >= 8


def test_examples_are_drawn_anew_by_another_seed_only() -> None:
    relation = CORPUS.relations[0]
    assert of(relation) == of(relation)
    assert of(relation) != of(relation, seed=1)


def test_a_corpus_without_frames_gives_phrasings_alone() -> None:
    relation = CORPUS.relations[0]
    made = examples_of(relation, Corpus(relations=[relation]), Random(0))
    assert (made.framed, made.others) == ((), ())
    assert len(made.near) == len(relation.near)


def test_first_letters() -> None:
    assert capitalised("what is it?") == "What is it?"
    assert lowered("What is it?") == "what is it?"
    assert lowered("Whatever is it?") == "Whatever is it?"
