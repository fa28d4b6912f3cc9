"""The key router: scope is decided by what the unedited base makes of the last prompt token.

A fact owns keys: projections of the base's states at the last token of its prompt, of its variants
and of a few prefixed forms. It has rivals too: keys of other questions about its subject. A prompt
is a candidate for a fact if it names the fact's subject (or the fact has none); among candidates
the nearest key names the fact, and opens its shard if it is near enough and no rival is nearer. How
states become keys, which questions there are, and from where on near is near enough, is calibrated
once for a base (:mod:`editors.scope.calibration`).
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import inf

import torch

from editors.facts import Fact
from editors.inference.hidden_states import Asked, Ids, all_states, last_states
from editors.model.base_model import Base
from editors.model.tokenization import encode_prompts
from editors.scope.base import MAIN, Claims, Decision
from editors.scope.calibration import Calibration
from editors.scope.unrelated_prompts import prefixed
from editors.text_matching import naming, words

_SENTENCE_END = re.compile(r"[.!?:;](?=\s)|\n")
_NEXT_WORD = re.compile(r"[ -](\w)(\w)")  # its first two letters


class Subjects:
    """Which facts' subjects a text names, as whole words where they can be seen, whatever the case.

    A name that goes on is another name: "Porto Alegre" does not name Porto.
    """

    def __init__(self, subjects: Sequence[str | None]) -> None:
        self._always = [i for i, subject in enumerate(subjects) if subject is None]
        self._by_word: dict[str, dict[str, list[int]]] = {}
        for i, subject in enumerate(subjects):
            if subject is not None:
                folded = subject.casefold()
                word = max(words(folded), key=len, default="")  # few names share it, unlike "the"
                self._by_word.setdefault(word, {}).setdefault(folded, []).append(i)

    def named_in(self, text: str) -> list[int]:
        """The facts whose subject ``text`` names, and those that have none."""
        folded = text.casefold()
        found = list(self._always)
        for word in {*words(folded), ""}:  # "": subjects made of signs alone
            for subject, facts in self._by_word.get(word, {}).items():
                if subject not in folded:  # patterns take a hundred times as long
                    continue
                pattern = naming(subject)
                if re.search(pattern, folded) and not _always_goes_on(pattern, text):
                    found.extend(facts)
        return sorted(found)


def _always_goes_on(pattern: str, text: str) -> bool:
    """Wherever ``text`` has the name, a capitalised word follows that makes it a longer one.

    Only where capitals tell something: not in a text that has them everywhere or on every word.
    """
    places = list(re.finditer(pattern, text, re.IGNORECASE))
    longer = bool(places) and all(
        place.group()[:1].isupper()
        and (following := _NEXT_WORD.match(text, place.end())) is not None
        and following[1].isupper()
        and following[2].islower()
        for place in places
    )
    return longer and any(word[0].islower() for word in words(text))


class Yielding:
    """A key router whose side memory yields to the passage: for those who prefer the context.

    A prompt with a passage that speaks of the very fact it asks for goes to main memory, which
    reads the passage; every other prompt goes where the key router sends it.
    """

    def __init__(self, router: KeyRouter) -> None:
        self._router = router

    def decide(self, prompts: Sequence[Ids]) -> list[Decision]:
        decisions = self._router.decide(prompts)
        for i, (prompt, decision) in enumerate(zip(prompts, decisions, strict=True)):
            claimed = decision.fact if decision.opened else None
            if claimed is not None and self._router.speaks_of(prompt, claimed):
                decisions[i] = replace(decision, shard=-1, yielded=True)
        return decisions


@dataclass(frozen=True, slots=True)
class KeySettings:
    """``prefixed``: keys of each fact after an unrelated beginning; ``rivals``: the questions most
    like it that are put to its subject."""

    prefixed: int = 2
    rivals: int = 20


@dataclass(frozen=True, slots=True)
class Seen:
    """What the base made of one fact: its ``keys`` ``[n, rank]`` and those of its ``rivals``
    ``[m, rank]``, float32, each of length 1."""

    keys: torch.Tensor
    rivals: torch.Tensor


class KeyRouter:
    """Routes by what the base made of each fact (see :class:`Looking`)."""

    def __init__(
        self,
        base: Base,
        facts: Sequence[Fact],
        shards: Sequence[int],
        calibration: Calibration,
        seen: Sequence[Seen],
    ) -> None:
        """``shards[i]``: where fact ``i`` leads, -1 for main memory (a closed fact)."""
        self._base, self._facts, self._shards = base, facts, shards
        self._calibration, self._seen = calibration, seen
        self._subjects = Subjects([fact.subject for fact in facts])
        own = encode_prompts(base.tokenizer, [fact.prompt for fact in facts])
        self._same = {ids: i for i, ids in enumerate(own)}

    @property
    def reads(self) -> tuple[int, ...]:
        """The blocks after which it reads the last prompt token's state."""
        return self._calibration.layers

    def decide(self, prompts: Sequence[Ids]) -> list[Decision]:
        """One decision for each prompt, after a look at the base where one is needed."""
        claims = self.begin(prompts)
        if not claims.rows:
            return claims.decisions
        asked = [prompts[i] for i in claims.rows]
        return self.settle(claims, last_states(self._base, asked, self.reads))

    def begin(self, prompts: Sequence[Ids]) -> Claims:
        """What can be said before the base has seen the prompts: who is named, whose own it is."""
        decisions, candidates = [MAIN] * len(prompts), {}
        texts = self._base.tokenizer.batch_decode(
            [list(prompt) for prompt in prompts], skip_special_tokens=True
        )
        for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            own = self._same.get(prompt)
            if own is not None:  # the edited prompt itself
                fact, threshold = self._facts[own].id, self._threshold(own)
                decisions[i] = Decision(self._shards[own], fact, 1.0, threshold)
            elif found := self._subjects.named_in(text):
                candidates[i] = found
        return Claims(decisions, candidates)

    def settle(self, claims: Claims, states: torch.Tensor) -> list[Decision]:
        """All decisions, with ``states`` ``[rows, layers, hidden]`` of the rows in question."""
        decisions = list(claims.decisions)
        queries = self._calibration.keys(states)
        for (i, candidates), query in zip(claims.candidates.items(), queries, strict=True):
            decisions[i] = self._decide(query, candidates)
        return decisions

    def speaks_of(self, prompt: Ids, fact: str) -> bool:
        """Whether a passage in ``prompt`` speaks of the fact (an id) that the prompt asks for.

        So it is where a beginning of the prompt asks for the fact too, behind a first mention of
        its subject and before the sentence with the last, which is the question: "The capital of
        France is" is a beginning of "The capital of France is Lyon. What is the capital of
        France?". A fact without a subject is never spoken of.
        """
        asked = next(i for i, known in enumerate(self._facts) if known.id == fact)
        passage = self._passage(prompt, self._facts[asked].subject)
        if passage is None:
            return False
        states = all_states(self._base, prompt, self.reads)  # [tokens, layers, hidden]
        queries = self._calibration.keys(states[passage])
        return any(self._decide(query, [asked]).opened for query in queries)

    def _passage(self, prompt: Ids, subject: str | None) -> slice | None:
        """The tokens from the end of the first mention of ``subject`` up to the question."""

        def decoded(tokens: int) -> str:
            ids = list(prompt[:tokens])
            text: str = self._base.tokenizer.decode(ids, skip_special_tokens=True)
            return text.casefold()

        def length(tokens: int) -> int:
            return len(decoded(tokens))

        text = decoded(len(prompt))
        mentions = list(re.finditer(naming(subject.casefold()), text)) if subject else []
        if len(mentions) < 2:
            return None
        ends = list(_SENTENCE_END.finditer(text, 0, mentions[-1].start()))
        question = ends[-1].end() if ends else 0
        counts = range(len(prompt) + 1)
        # The token at a place is the last of a beginning that is one longer.
        first = bisect_left(counts, mentions[0].end(), key=length) - 1
        last = bisect_right(counts, question, key=length) - 1
        return slice(first, last)

    def _decide(self, query: torch.Tensor, candidates: Sequence[int]) -> Decision:
        scores = [(nearest(self._seen[fact].keys, query), fact) for fact in candidates]
        # One that is not near enough itself cannot keep another from being chosen.
        near = [(score, fact) for score, fact in scores if score > self._threshold(fact)]
        score, fact = max(near or scores)
        threshold = max(self._threshold(fact), nearest(self._seen[fact].rivals, query))
        shard = self._shards[fact] if score > threshold else -1
        return Decision(shard, self._facts[fact].id, score, threshold)

    def _threshold(self, fact: int) -> float:
        subject = self._facts[fact].subject
        return self._calibration.unnamed if subject is None else self._calibration.named


def nearest(keys: torch.Tensor, query: torch.Tensor) -> float:
    """The cosine of ``query`` ``[rank]`` and the nearest of ``keys`` ``[n, rank]``; -1 of none."""
    return float((keys @ query).max()) if len(keys) else -1.0


class Looking:
    """A look at facts that has seen their forms and is still to see the rivals that these call for.

    ``keys``: of each fact, by id, float32 ``[n, rank]``; ``asked``: the rivals, which another
    forward may take along.
    """

    def __init__(
        self,
        base: Base,
        facts: Sequence[Fact],
        calibration: Calibration,
        prefixes: Sequence[str],
        settings: KeySettings,
    ) -> None:
        """``prefixes``: unrelated beginnings."""
        self._base, self._calibration = base, calibration
        forms = [
            [fact.prompt, *fact.variants, *prefixed(fact, prefixes, settings.prefixed)]
            for fact in facts
        ]
        own = self._keys(*self._asked(forms))
        self.keys = {fact.id: keys for fact, keys in zip(facts, own, strict=True)}
        rivals = [
            [] if fact.subject is None else calibration.rivals(keys, fact.subject, settings.rivals)
            for fact, keys in zip(facts, own, strict=True)
        ]
        self.asked, self._each = self._asked(rivals)

    def seen(self) -> dict[str, Seen]:
        """By id, what was seen of each fact."""
        rivals = self._keys(self.asked, self._each)
        same = self._calibration.same
        return {
            # What is as near as another phrasing would be asks the same thing, and is no rival.
            fact: Seen(own, other[(other @ own.T).amax(1) < same])
            for (fact, own), other in zip(self.keys.items(), rivals, strict=True)
        }

    def _asked(self, texts: Sequence[Sequence[str]]) -> tuple[Asked, list[int]]:
        """Those texts that the model takes, to be looked at, and how many each list has of them."""
        base, calibration = self._base, self._calibration
        context = base.architecture.context or inf
        whole = iter(encode_prompts(base.tokenizer, [text for part in texts for text in part]))
        parts = [[ids for ids in islice(whole, len(part)) if len(ids) <= context] for part in texts]
        asked = [ids for part in parts for ids in part]
        return Asked(base, asked, calibration.layers, calibration.keys), [len(p) for p in parts]

    def _keys(self, asked: Asked, each: Sequence[int]) -> list[torch.Tensor]:
        """For each list of texts the keys of those that were asked, float32 ``[n, rank]``."""
        if not any(each):
            return [self._calibration.centroids[:0] for _ in each]
        return [part.clone() for part in torch.split(asked.states(), list(each))]


def packed(seen: Sequence[Seen]) -> dict[str, torch.Tensor]:
    """What was seen of several facts as tensors to save."""
    return {
        "keys": torch.cat([of_fact.keys for of_fact in seen]),
        "keys_each": torch.tensor([len(of_fact.keys) for of_fact in seen]),
        "rivals": torch.cat([of_fact.rivals for of_fact in seen]),
        "rivals_each": torch.tensor([len(of_fact.rivals) for of_fact in seen]),
    }


def unpacked(tensors: Mapping[str, torch.Tensor]) -> list[Seen]:
    """What :func:`packed` gave ``tensors`` for."""
    keys = torch.split(tensors["keys"], tensors["keys_each"].tolist())
    rivals = torch.split(tensors["rivals"], tensors["rivals_each"].tolist())
    return [Seen(*of_fact) for of_fact in zip(keys, rivals, strict=True)]
