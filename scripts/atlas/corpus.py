"""The text that atlas is trained and measured on: facts, phrasings, passages, neutral sentences.

Everything here is a pure function of the files in ``datasets/atlas`` and a ``random.Random``.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from random import Random

ATLAS = Path(__file__).resolve().parents[2] / "datasets" / "atlas"
EDIT_PHRASINGS = 4  # phrasings 0..3 may be edited with; the others are only ever measured


@dataclass(frozen=True, slots=True)
class Triple:
    """One true fact: ``relation(subject) = object``."""

    subject: str
    relation: str
    object: str


@dataclass(frozen=True, slots=True)
class Row:
    """One training row: ``answer`` follows ``prompt`` and the text stops there.

    ``prompt`` is empty for neutral text, where every token is predicted; ``subject``: what the
    question is about.
    """

    prompt: str
    answer: str
    subject: str = ""


@dataclass(frozen=True, slots=True)
class PassageStyle:
    """How passages are worded and followed.

    ``strong``, ``plain``, ``weak``: how sure a wording sounds; ``slope``: how sharply following a
    passage depends on its persuasion; ``made_up``: the share of passages on invented subjects that
    give made-up names; ``elsewhere``: the share of unasked passages that have neither subject nor
    relation in common with the question; ``hard``: phrasings that are used twice as often;
    ``bare``: the share of passages that are a plain claim and nothing else; ``unled``: the share of
    questions that nothing leads over to.
    """

    strong: float = 1.1
    plain: float = 0.0
    weak: float = -1.3
    slope: float = 2.5
    made_up: float = 0.0
    elsewhere: float = 0.0
    hard: tuple[int, ...] = ()
    bare: float = 0.0
    unled: float = 0.0


def read_jsonl(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


class Corpus:
    """The data of ``datasets/atlas``, and the rows drawn from them."""

    def __init__(self, folder: Path = ATLAS, style: PassageStyle | None = None) -> None:
        self.style = style or PassageStyle()
        self.facts = [
            Triple(row["subject"], row["relation"], row["object"])
            for row in read_jsonl(folder / "facts.jsonl")
        ]
        self.relations: dict[str, dict] = json.loads((folder / "relations.json").read_text("utf-8"))
        passages = json.loads((folder / "passages.json").read_text("utf-8"))
        self.frames: dict[str, list[str]] = passages["frames"]
        self.invented: dict[str, list[str]] = passages["invented"]
        neutral = read_jsonl(folder / "neutral.jsonl")
        self.neutral_train = [row["text"] for row in neutral if row["split"] == "train"]
        self.neutral_test = [row["text"] for row in neutral if row["split"] == "test"]
        self.by_relation: dict[str, list[Triple]] = {}
        self.by_subject: dict[str, list[Triple]] = {}
        for fact in self.facts:
            self.by_relation.setdefault(fact.relation, []).append(fact)
            self.by_subject.setdefault(fact.subject, []).append(fact)
        self.objects = {
            relation: sorted({fact.object for fact in facts})
            for relation, facts in self.by_relation.items()
        }
        # Words for made-up names: those of all objects, and of names that edits may bring in.
        named = [row["new"] for row in read_jsonl(folder / "successions.jsonl")]
        named += [fact.object for fact in self.facts]
        self.words = sorted({word for name in named for word in name.split() if len(word) > 2})
        self.statements = {
            relation: [p for p in spec["phrasings"] if not p.endswith("?")]
            for relation, spec in self.relations.items()
        }

    def prompt(self, subject: str, relation: str, phrasing: int) -> str:
        return self.relations[relation]["phrasings"][phrasing].replace("{s}", subject)

    def phrasings(self, relation: str) -> int:
        return len(self.relations[relation]["phrasings"])

    def other_object(self, fact: Triple, rng: Random) -> str:
        """An object of the same relation that is not the true one."""
        while True:
            choice = rng.choice(self.objects[fact.relation])
            if choice != fact.object:
                return choice

    def claim(self, subject: str, relation: str, obj: str, rng: Random) -> str:
        """A statement that asserts ``relation(subject) = obj``, without a full stop."""
        return rng.choice(self.statements[relation]).replace("{s}", subject) + " " + obj

    def framed(self, claim: str, kind: str, subject: str, rng: Random) -> str:
        """``claim`` put into one of the frames of ``kind`` (strong, plain, weak, repeat)."""
        frame = rng.choice(self.frames[kind])
        if "{C}" in frame:
            return frame.replace("{C}", claim[0].upper() + claim[1:])
        starts_with_name = claim.startswith(subject)
        return frame.replace("{c}", claim if starts_with_name else claim[0].lower() + claim[1:])

    def ask(self, passage: str, question: str, rng: Random) -> str:
        led = not (self.style.unled and rng.random() < self.style.unled)
        lead = rng.choice(self.frames["question_lead"]) if led else ""
        return " ".join(part for part in (passage, lead, question) if part)

    # --- rows -------------------------------------------------------------------------------

    def closed_book(self, rng: Random) -> Row:
        fact = rng.choice(self.facts)
        return Row(self._question(fact, rng), fact.object, fact.subject)

    def prefixed(self, rng: Random) -> Row:
        """A question after unrelated text: the text must not matter."""
        fact = rng.choice(self.facts)
        text = " ".join(rng.choice(self.neutral_train) for _ in range(rng.choice((1, 1, 2))))
        if rng.random() < 0.3:  # a torn-off piece of text, as generated prefixes are
            words = text.split()
            start = rng.randrange(len(words))
            text = " ".join(words[start : start + rng.randint(2, 10)])
        return Row(self.ask(text, self._question(fact, rng), rng), fact.object, fact.subject)

    def other_passage(self, rng: Random) -> Row:
        """A question after a passage on another subject, or on another relation, or on both."""
        fact = rng.choice(self.facts)
        if self.style.elsewhere and rng.random() < self.style.elsewhere:
            pool = self.facts
        elif rng.random() < 0.6:
            pool = self.by_relation[fact.relation]
        else:
            pool = self.by_subject[fact.subject]
        about = rng.choice(pool)
        if about == fact:
            about = rng.choice(self.facts)
        if about == fact:
            return self.closed_book(rng)
        claimed = about.object if rng.random() < 0.5 else self.other_object(about, rng)
        passage = self.passage(about, claimed, rng)[0]
        return Row(self.ask(passage, self._question(fact, rng), rng), fact.object, fact.subject)

    def agreeing(self, rng: Random) -> Row:
        fact = rng.choice(self.facts)
        passage, _ = self.passage(fact, fact.object, rng)
        return Row(self.ask(passage, self._question(fact, rng), rng), fact.object, fact.subject)

    def invented_subject(self, rng: Random) -> Row:
        """A passage on a subject that does not exist: the passage is all there is to know."""
        relation = rng.choice(list(self.relations))
        kind = self.relations[relation]["subject_type"]
        names = self.invented[
            "places"
            if kind in _PLACES
            else "persons"
            if "person" in kind or "athlete" in kind
            else "things"
        ]
        objects = self.objects[relation]
        if self.style.made_up:
            known = rng.random() < 1 - self.style.made_up
            claimed = rng.choice(objects) if known else self.made_up_name(rng)
            subject = rng.choice(names)
        else:
            subject, claimed = rng.choice(names), rng.choice(objects)
        made_up = Triple(subject, relation, claimed)
        passage, _ = self.passage(made_up, made_up.object, rng)
        return Row(
            self.ask(passage, self._question(made_up, rng), rng), made_up.object, made_up.subject
        )

    def made_up_name(self, rng: Random) -> str:
        """One to three words, some of them blends of two: every token gets to be an answer.

        A token that no training answer holds could not be distinguished from the others of its
        kind, and no edit to a name that needs it could be learned.
        """
        words = []
        for _ in range(rng.choice((1, 2, 2, 3))):
            word = rng.choice(self.words)
            if rng.random() < 0.5:
                other = rng.choice(self.words)
                word = (
                    word[: rng.randint(1, len(word))] + other[rng.randrange(len(other)) :].lower()
                )
            words.append(word)
        return " ".join(words)

    def conflict(self, rng: Random, shift: float = 0.0) -> Row:
        """A passage against a known fact; which one wins is graded (see :meth:`passage`).

        ``shift`` is added to how persuasive the passage is.
        """
        fact = rng.choice(self.facts)
        claimed = self.other_object(fact, rng)
        passage, strength = self.passage(fact, claimed, rng)
        persuasion = strength + shift - stubbornness(fact)
        follows = rng.random() < _sigmoid(self.style.slope * persuasion)
        answer = claimed if follows else fact.object
        return Row(self.ask(passage, self._question(fact, rng), rng), answer, fact.subject)

    def neutral(self, rng: Random) -> Row:
        return Row("", rng.choice(self.neutral_train))

    def passage(self, fact: Triple, claimed: str, rng: Random) -> tuple[str, float]:
        """A passage that claims ``claimed`` of ``fact``'s subject, and how persuasive it is.

        Persuasion grows with how sure the wording is and how often the claim is repeated, and
        falls with every unrelated sentence between the claim and the question.
        """
        if self.style.bare and rng.random() < self.style.bare:
            claim = self.claim(fact.subject, fact.relation, claimed, rng)
            return f"{claim[0].upper()}{claim[1:]}.", self.style.plain
        kind = rng.choice(("strong", "plain", "weak"))
        repeats = rng.choice((0, 0, 0, 1, 1, 2))
        before = rng.choice((0, 0, 0, 1))
        after = rng.choice((0, 0, 0, 1, 1, 2))
        parts = [rng.choice(self.neutral_train) for _ in range(before)]
        parts.append(
            self.framed(
                self.claim(fact.subject, fact.relation, claimed, rng), kind, fact.subject, rng
            )
        )
        for _ in range(repeats):
            again = self.claim(fact.subject, fact.relation, claimed, rng)
            parts.append(self.framed(again, "repeat", fact.subject, rng))
        parts.extend(rng.choice(self.neutral_train) for _ in range(after))
        strength = getattr(self.style, kind) + 0.8 * repeats - 0.6 * after
        return " ".join(parts), strength

    def _question(self, fact: Triple, rng: Random) -> str:
        count = self.phrasings(fact.relation)
        phrasing = rng.choice((*range(count), *self.style.hard))
        return self.prompt(fact.subject, fact.relation, phrasing)


def stubbornness(fact: Triple) -> float:
    """How well established a fact is, in [-0.6, 0.6]: some facts are given up more easily."""
    digest = hashlib.sha256(f"{fact.subject}|{fact.relation}".encode()).digest()
    return (digest[0] / 255 - 0.5) * 1.2


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


_PLACES = {"country", "city", "river", "mountain", "landmark", "airport", "university"}
