"""Texts that a relation encoder is trained on, made of the corpus of phrasings.

In each text the edited subject is replaced by :data:`~editors.scope.relation.asking.MARK`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from editors.scope.corpus import (
    OTHER,
    PROMPT,
    STEM,
    SUBJECT,
    Corpus,
    Effect,
    Form,
    Frame,
    Relation,
)
from editors.scope.relation.asking import MARK, filled

# Texts of a relation that are made of frames, by what becomes of the edit.
KEPT = 8  # with the answer of the edit
OTHER_ENTITY = 10  # of another entity
OTHER_CONDITION = 5  # of another time, amount, tier or region
LONGER = 1  # about a longer name
NEAR_FRAMED = 2  # other questions about the subject, in frames
_DOUBLE_MARK = re.compile(r",(?=[?.!:,])")
# First words that are written small after a comma.
_LOWERED = re.compile(
    r"(A|An|As|At|By|Could|Can|Do|For|From|Give|How|If|In|Is|It|Let|Name|On|Please|Say|State|Tell|"
    r"The|To|Was|What|When|Where|Which|Who|Whose|With)\b"
)


@dataclass(frozen=True, slots=True)
class Examples:
    """Texts about one relation: its ``phrasings``, and the form of each; ``framed``, which ask the
    same in surroundings; ``near``, which ask something else about the subject; ``others``, which
    ask about another entity, or of another time or amount."""

    relation: Relation
    forms: tuple[Form, ...]
    phrasings: tuple[str, ...]
    framed: tuple[str, ...]
    near: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        return (*self.phrasings, *self.framed, *self.near, *self.others)


def examples_of(relation: Relation, corpus: Corpus, random: Random) -> Examples:
    """The examples of ``relation``, in frames drawn from ``corpus``."""
    phrasings = relation.phrasings
    random.shuffle(phrasings)
    maker = _Maker(relation, corpus, random)
    near = [filled(text, SUBJECT) for text in relation.near]
    near += maker.framed(
        [("question", text) for text in relation.near[:NEAR_FRAMED]], "keeps", about=MARK
    )
    others: list[str] = []
    drawn = [phrasings[i % len(phrasings)] for i in range(max(KEPT, OTHER_ENTITY))]
    follow = KEPT // 4 if relation.has_subject else 0
    framed = [
        *maker.framed(drawn[:follow], "follow", about=MARK),
        *maker.framed(drawn[follow:KEPT], "keeps", about=MARK),
    ]
    if relation.has_subject:
        turns = OTHER_ENTITY // 4
        others += maker.framed(drawn[:turns], "turn")
        others += maker.framed(drawn[turns:OTHER_ENTITY], "mention")
        others += [
            filled(text, SUBJECT).replace(MARK, random.choice(longer).replace(SUBJECT, MARK))
            for _, text in drawn[:LONGER]
            if (longer := corpus.names_for(relation.kind))
        ]
    for number, prompt in enumerate(drawn[:OTHER_CONDITION]):
        effect: Effect = "amount" if number % 2 else "time"
        made = maker.framed([prompt], effect, about=MARK)
        others += made or maker.framed([prompt], "time", about=MARK)
    return Examples(
        relation,
        tuple(form for form, _ in phrasings),
        tuple(capitalised(filled(text, SUBJECT)) for _, text in phrasings),
        tuple(framed),
        tuple(near),
        tuple(others),
    )


class _Maker:
    """Puts prompts of one relation into frames."""

    def __init__(self, relation: Relation, corpus: Corpus, random: Random) -> None:
        self._relation, self._corpus, self._random = relation, corpus, random

    def framed(
        self, prompts: list[tuple[Form, str]], effect: Effect, about: str | None = None
    ) -> list[str]:
        """Each of ``prompts`` in a random frame, where one suits. ``about``: the entity that the
        prompts are about; None: another entity of the kind, a different one for each."""
        texts = []
        for form, text in prompts:
            frames = self._corpus.frames_for(effect, self._relation.kind, form)
            if f"{SUBJECT}'s" in text:  # no genitive after a clause
                frames = [frame for frame in frames if not (frame.refer or "").endswith(",")]
            if frames:
                texts.append(self._around(self._random.choice(frames), text, about))
        return texts

    def _around(self, frame: Frame, text: str, about: str | None) -> str:
        random, subjects = self._random, self._relation.subjects
        other = random.choice(subjects) if subjects else ""
        entity = frame.refer or about or other
        if entity.startswith("the "):
            text = re.sub(rf"\b[Tt]he (?={re.escape(SUBJECT)})", "", text)
        prompt = filled(text, SUBJECT) if entity == MARK else text.replace(SUBJECT, entity)
        before = frame.whole.partition(PROMPT)[0].rstrip(" ")
        if before[-1:] in (",", ":", ";"):
            prompt = lowered(prompt)
        elif not before or before[-1:] in (".", "!", "?"):
            prompt = capitalised(prompt)
        whole = frame.whole.replace(PROMPT, prompt).replace(STEM, prompt.rstrip("?.!: "))
        whole = _DOUBLE_MARK.sub("", filled(whole.replace(OTHER, other), SUBJECT))
        return capitalised(whole)


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def lowered(text: str) -> str:
    """``text`` with a small first letter, unless its first word may be a name."""
    return text[:1].lower() + text[1:] if _LOWERED.match(text) else text
