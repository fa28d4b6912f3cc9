"""The scope signals ``relation`` and ``sentence``: *who* is a prompt about, and *what* does it ask?

Who: a fact is a candidate for a prompt that mentions its subject. What: the subject is taken out of
the asking part of the prompt, and the relation encoder gives the direction of what is left. The
fact with the most similar direction claims the prompt if the similarity exceeds a threshold. The
encoder reads the base's own states (``relation``), or is a sentence encoder (``sentence``). Words
tell what directions do not (:mod:`editors.scope.relation.words`): who repeats those of the fact and
adds another one asks something else, and what a fact without a subject is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch

from editors.facts import Fact
from editors.inference.decisions import Decision, Proposal
from editors.inference.hidden_states import StateRequest
from editors.model.base_model import Base
from editors.model.tokenization import Ids
from editors.scope.base import (
    AsksBaseOnly,
    FactKeys,
    Settings,
    Tensors,
    Wording,
    cosine_of_prompts,
    explain_score,
)
from editors.scope.corpus import SUBJECT, Corpus
from editors.scope.fact_names import names_of
from editors.scope.mention_router import MentionRouter
from editors.scope.mentions import Mention, Mentions
from editors.scope.relation.asking import MARK, asking_part, masked, sentences
from editors.scope.relation.calibration import Calibration, calibrate
from editors.scope.relation.encoders.base import RelationEncoder
from editors.scope.relation.encoders.sentence import SentenceEncoder
from editors.scope.relation.encoders.states import StatesEncoder
from editors.scope.relation.examples import capitalised
from editors.scope.relation.prompt_text import prompt_texts
from editors.scope.relation.words import Words
from editors.scope.unrelated_prompts import UnrelatedPrefixes

SURROUNDINGS: tuple[Wording, ...] = (
    ("question", "Q: {prompt}\nA:"),
    ("personal", "I was asked this today. {prompt}"),
)


UNRECOGNISED = -1  # instead of the number of a relation
SAME_QUESTION = 0.8  # cosine of two prompts
CONTRAST = 0.3  # so much of the contrast is taken from the similarity
# Without a subject, words are all that tells two facts apart.
CONTRAST_WITHOUT_SUBJECT = 1.2
STATEMENT = 0.1  # is taken from the similarity of a prompt that asks nothing
TOPIC, USUAL_TOPIC = 0.3, 0.4  # weight of the topic, and the share of words that changes nothing


class RelationSignal(AsksBaseOnly):
    """Decides by the direction of the question that a prompt asks about a subject."""

    name: ClassVar[str] = "relation"
    encoder_type: ClassVar[type[RelationEncoder]] = StatesEncoder
    learns_from: ClassVar[tuple[str, ...]] = ("relations", "frames", "longer_names")
    similarity = staticmethod(cosine_of_prompts)

    def __init__(self, base: Base, calibration: Tensors, prefixes: UnrelatedPrefixes) -> None:
        self.base = base
        encoder = self.encoder_type.from_tensors(base, calibration)
        self.calibration = Calibration(encoder, calibration)
        self.words = Words(self.calibration.wordings)

    @classmethod
    def depends_on(cls, base: Base, settings: Settings) -> list[Any]:
        return cls.encoder_type.depends_on(base, settings)

    @classmethod
    def calibrate(
        cls,
        base: Base,
        corpus: Corpus,
        prefixes: UnrelatedPrefixes,
        settings: Settings,
    ) -> dict[str, torch.Tensor]:
        return calibrate(cls.encoder_type, base, corpus, settings)

    def learn(self, facts: Sequence[Fact]) -> RelationLearning:
        return RelationLearning(self, facts)

    def wordings(self, fact: Fact, keys: FactKeys) -> list[Wording]:
        """The phrasings of the fact's relation, about its subject; where no relation is recognised,
        the fact's prompt in plain surroundings."""
        relation = int(keys["relation"])
        if relation == UNRECOGNISED:
            return [(form, text.replace("{prompt}", fact.prompt)) for form, text in SURROUNDINGS]
        subject = fact.subject or ""
        return [
            (form, capitalised(text.replace(SUBJECT, subject)))
            for form, text in self.calibration.wordings[relation]
        ]

    def same_question(self, first: FactKeys, second: FactKeys) -> bool:
        """Whether both prompts are recognised as one relation; where they are not both recognised,
        whether they are very similar."""
        relations = {int(keys["relation"]) for keys in (first, second)}
        if UNRECOGNISED in relations:
            return self.similarity(first, second) > SAME_QUESTION
        return len(relations) == 1

    def explain(self, decision: Decision, keys: FactKeys) -> str:
        """The score, and the question as which the prompt of the fact is recognised."""
        relation = int(keys["relation"])
        if relation == UNRECOGNISED:
            return explain_score(decision)
        wordings = self.calibration.wordings[relation]
        question = next(text for form, text in wordings if form == "question")
        return f"{explain_score(decision)}; the fact answers {question.replace(SUBJECT, '...')!r}"

    def router(
        self, facts: Sequence[Fact], keys: Sequence[FactKeys], memories: Sequence[int]
    ) -> RelationRouter:
        return RelationRouter(self, facts, keys, memories)


class SentenceSignal(RelationSignal):
    """The same with a sentence encoder, which is another model than the base."""

    name: ClassVar[str] = "sentence"
    needs_base: ClassVar[bool] = False
    encoder_type: ClassVar[type[RelationEncoder]] = SentenceEncoder

    @classmethod
    def other_model(cls, calibration: Tensors) -> Path | None:
        return SentenceEncoder.folder_of(calibration)

    @classmethod
    def with_other_model(cls, calibration: Tensors, folder: Path) -> Tensors:
        return SentenceEncoder.at(folder, calibration)


class RelationLearning:
    """Facts whose prompts have been read."""

    request: StateRequest | None = None

    def __init__(self, signal: RelationSignal, facts: Sequence[Fact]) -> None:
        calibration = signal.calibration
        texts = [text for fact in facts for text in own_questions(fact)]
        directions = iter(calibration.directions_of(texts))
        self.own_keys: dict[str, FactKeys] = {}
        for fact in facts:
            keys = torch.stack([*islice(directions, len(fact.trained_prompts()))])
            relation = calibration.recognised(keys[0])
            if relation is not None:
                keys = torch.cat([keys, calibration.by_form[relation]])
            number = UNRECOGNISED if relation is None else relation
            self.own_keys[fact.id] = {"keys": keys.half(), "relation": torch.tensor([number])}

    def keys(self) -> dict[str, FactKeys]:
        """By fact id: ``keys`` float16 ``[n, dimensions]``, the directions of its prompts and of
        the forms of its relation; ``relation`` int64 ``[1]``, the number of the relation, -1 if
        none is recognised."""
        return dict(self.own_keys)


class RelationRouter(MentionRouter):
    """Takes decisions by the directions of facts."""

    reads: tuple[int, ...] = ()

    def __init__(
        self,
        signal: RelationSignal,
        facts: Sequence[Fact],
        keys: Sequence[FactKeys],
        memories: Sequence[int],
    ) -> None:
        """The arguments are those of :class:`~editors.scope.mention_router.MentionRouter`."""
        self._calibration, self._words = signal.calibration, signal.words
        self._threshold = signal.calibration.encoder.threshold
        self._own_questions: dict[int, list[str]] = {}  # by number of the fact, once needed
        super().__init__(signal.base, facts, keys, memories, [self._threshold] * len(facts))

    def _texts(self, prompts: Sequence[Ids]) -> list[str]:
        return prompt_texts(self._base.tokenizer, prompts)

    def decide(self, proposal: Proposal, states: torch.Tensor | None) -> list[Decision]:
        """By the directions of the open prompts and of their asking parts: a question may stand
        before the last mention, and what stands before may hide it."""
        numbers = [*proposal.candidates]
        texts = self._texts([proposal.prompts[number] for number in numbers])
        asked: list[tuple[int, int]] = []  # prompt and candidate
        parts: list[str] = []  # two for each
        for number, text in zip(numbers, texts, strict=True):
            mentions = self._mentions.find(text)
            for fact in proposal.candidates[number]:
                whole = masked(text, mention_spans(mentions, fact))
                asked.append((number, fact))
                parts += [whole, asking_part(whole)]
        directions = self._calibration.directions_of(parts)
        of_parts = directions.view(len(asked), 2, directions.shape[-1])
        scored: dict[int, list[tuple[float, int]]] = {number: [] for number in numbers}
        pairs = zip(asked, of_parts, parts[::2], parts[1::2], strict=True)
        for (number, fact), queries, whole, part in pairs:
            cosines = self._keys[fact]["keys"].float() @ queries.T  # [keys, parts]
            scored[number].append((self._score(fact, float(cosines.max()), whole, part), fact))
        decisions = list(proposal.decisions)
        for number in numbers:
            decisions[number] = self._decide(*max(scored[number]))
        return decisions

    def _score(self, fact: int, similarity: float, prompt: str, asked: str) -> float:
        """The ``similarity`` of a prompt to a fact, corrected by the words of the prompt and of
        what is ``asked`` in it. Words are not compared where they cannot make a claim of it."""
        if self._words.states(asked):
            similarity -= STATEMENT
        has_subject = bool(self._facts[fact].subject)
        if similarity + (0 if has_subject else TOPIC * (1 - USUAL_TOPIC)) <= self._threshold:
            return similarity
        own, number = self._questions(fact), int(self._keys[fact]["relation"])
        relation = None if number == UNRECOGNISED else number
        contrast = min(self._words.contrast(question, asked, relation) for question in own)
        if has_subject:
            return similarity - CONTRAST * contrast
        topic = max(self._words.topic(question, prompt) for question in own)
        return similarity - CONTRAST_WITHOUT_SUBJECT * contrast + TOPIC * (topic - USUAL_TOPIC)

    def _questions(self, fact: int) -> list[str]:
        if fact not in self._own_questions:
            self._own_questions[fact] = own_questions(self._facts[fact])
        return self._own_questions[fact]

    def _decide(self, score: float, fact: int) -> Decision:
        memory = self._memories[fact] if score > self._threshold else -1
        return Decision(memory, self._facts[fact].id, score, self._threshold)

    def speaks_of(self, prompt: Ids, fact: str) -> bool:
        """Whether ``prompt`` has a passage about ``fact`` (an id), the fact that it asks for: a
        sentence before the one that asks mentions the subject and has the fact's relation."""
        number = self._number_of(fact)
        [text] = self._texts([prompt])
        whole = masked(text, mention_spans(self._mentions.find(text), number))
        passages = [
            part for part in sentences(whole.removesuffix(asking_part(whole))) if MARK in part
        ]
        if not passages:
            return False
        directions = self._calibration.directions_of(passages)
        return bool((self._keys[number]["keys"].float() @ directions.T).max() > self._threshold)


def own_questions(fact: Fact) -> list[str]:
    """The prompts of ``fact`` without its subject."""
    names = Mentions([names_of(fact)])
    return [masked(prompt, mention_spans(names.find(prompt))) for prompt in fact.trained_prompts()]


def mention_spans(mentions: Sequence[Mention], fact: int = 0) -> list[tuple[int, int]]:
    """Where the fact with the number ``fact`` is mentioned: start and end of each mention."""
    return [(mention.start, mention.end) for mention in mentions if mention.fact == fact]
