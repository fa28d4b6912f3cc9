"""The key router: scope is decided by what the unedited base makes of the last prompt token.

A fact owns keys: projections of the base's states at the last token of its prompt, of its variants
and of a few prefixed forms. A prompt is a candidate for a fact if it names the fact's subject (or
the fact has none); among candidates the nearest key names the fact, and opens its shard if it is
near enough. How states become keys, and from where on near is near enough, is calibrated once for
a base (:mod:`editors.calibration`); a shard's threshold is then raised above its own near misses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from editors.base import Base
from editors.calibration import Calibration, key_layers
from editors.facts import Fact
from editors.look import Ids, last_states
from editors.routing import MAIN, Decision
from editors.texts import ABOUT_SUBJECT, prefixed
from editors.tokens import encode_prompt, fits

_WORD = re.compile(r"\w+")


class Subjects:
    """Which facts' subjects a text names, as whole words, whatever the case."""

    def __init__(self, subjects: Sequence[str | None]) -> None:
        self._always = [i for i, subject in enumerate(subjects) if subject is None]
        self._by_word: dict[str, dict[str, list[int]]] = {}
        for i, subject in enumerate(subjects):
            if subject is not None:
                folded = subject.casefold()
                first = _WORD.search(folded)
                word = first.group() if first else ""
                self._by_word.setdefault(word, {}).setdefault(folded, []).append(i)

    def named_in(self, text: str) -> list[int]:
        """The facts whose subject ``text`` names, and those that have none."""
        folded = text.casefold()
        found = list(self._always)
        for word in {*_WORD.findall(folded), ""}:  # "": subjects made of signs alone
            for subject, facts in self._by_word.get(word, {}).items():
                if re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", folded):
                    found.extend(facts)
        return sorted(found)


@dataclass(frozen=True, slots=True)
class KeySettings:
    """``prefixed``: keys of each fact after an unrelated beginning; ``false_open``: the share of
    a shard's own near misses, made automatically, that may lie above its threshold."""

    prefixed: int = 2
    false_open: float = 0.01


class KeyRouter:
    """Routes by keys; made by :meth:`fit`, saved as :meth:`tensors`."""

    def __init__(
        self,
        base: Base,
        facts: Sequence[Fact],
        shards: Sequence[int],
        tensors: Mapping[str, torch.Tensor],
    ) -> None:
        """``shards[i]``: where fact ``i`` leads, -1 for main memory (a closed fact)."""
        self._base, self._facts, self._shards = base, facts, shards
        self._tensors = tensors
        self._calibration = Calibration.from_tensors(tensors)
        self._subjects = Subjects([fact.subject for fact in facts])
        self._same = {encode_prompt(base.tokenizer, f.prompt): i for i, f in enumerate(facts)}
        self._keys_of: list[list[int]] = [[] for _ in facts]
        for key, owner in enumerate(tensors["owners"].tolist()):
            self._keys_of[owner].append(key)

    def decide(self, prompts: Sequence[Ids]) -> list[Decision]:
        decisions = [MAIN] * len(prompts)
        texts = self._base.tokenizer.batch_decode(
            [list(prompt) for prompt in prompts], skip_special_tokens=True
        )
        candidates = [self._subjects.named_in(text) for text in texts]
        rows = [i for i, found in enumerate(candidates) if found]
        if not rows:
            return decisions
        queries = self._keys([prompts[i] for i in rows])
        for i, query in zip(rows, queries, strict=True):
            decisions[i] = self._decide(prompts[i], query, candidates[i])
        return decisions

    def _decide(self, prompt: Ids, query: torch.Tensor, candidates: Sequence[int]) -> Decision:
        score, fact = max((self._score(query, fact), fact) for fact in candidates)
        if prompt in self._same:  # the edited prompt itself
            score, fact = 1.0, self._same[prompt]
        threshold = float(self._tensors["thresholds"][fact])
        opened = score > threshold or prompt in self._same
        shard = self._shards[fact] if opened else -1
        return Decision(shard, self._facts[fact].id, score, threshold)

    def _score(self, query: torch.Tensor, fact: int) -> float:
        return float((self._tensors["keys"][self._keys_of[fact]] @ query).max())

    def _keys(self, prompts: Sequence[Ids]) -> torch.Tensor:
        states = last_states(self._base, prompts, key_layers(self._base))
        return self._calibration.keys(states)

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """What the router needs beside the facts, to be saved."""
        return self._tensors

    @staticmethod
    def fit(
        base: Base,
        facts: Sequence[Fact],
        shards: Sequence[int],
        calibration: Calibration,
        prefixes: Sequence[str],
        settings: KeySettings,
    ) -> KeyRouter:
        """Make keys for ``facts`` and set the threshold of each shard.

        ``prefixes``: unrelated beginnings for the prefixed keys.
        """
        forms: list[str] = []
        owners: list[int] = []
        for i, fact in enumerate(facts):
            own = [fact.prompt, *fact.variants]
            for form in prefixed(fact, prefixes, settings.prefixed):
                if fits(base.tokenizer, form, base.architecture.context):
                    own.append(form)
            forms += own
            owners += [i] * len(own)
        tensors = {
            **calibration.tensors(),
            "keys": calibration.keys(_states(base, forms)),
            "owners": torch.tensor(owners, dtype=torch.long),
            "thresholds": torch.tensor(
                [calibration.unnamed if f.subject is None else calibration.named for f in facts]
            ),
        }
        router = KeyRouter(base, facts, shards, tensors)
        tensors["thresholds"] = router._raised(settings.false_open)
        return KeyRouter(base, facts, shards, tensors)

    def _raised(self, false_open: float) -> torch.Tensor:
        """float32 ``[facts]``: the thresholds, above all but a share of each shard's near misses.

        Near misses: prompts about a fact's subject that ask for something else.
        """
        misses = [
            (i, about.replace("{s}", fact.subject))
            for i, fact in enumerate(self._facts)
            if fact.subject is not None
            for about in ABOUT_SUBJECT[i % 10 :: 10]
        ]
        raised = self._tensors["thresholds"].clone()
        if not misses:
            return raised
        queries = self._calibration.keys(_states(self._base, [text for _, text in misses]))
        by_shard: dict[int, list[float]] = {}
        for (fact, _), query in zip(misses, queries, strict=True):
            by_shard.setdefault(self._shards[fact], []).append(self._score(query, fact))
        for i, shard in enumerate(self._shards):
            if shard in by_shard:
                hardest = torch.tensor(by_shard[shard]).quantile(1 - false_open)
                raised[i] = torch.maximum(raised[i], hardest)
        return raised


def _states(base: Base, texts: Sequence[str]) -> torch.Tensor:
    ids = [encode_prompt(base.tokenizer, text) for text in texts]
    return last_states(base, ids, key_layers(base))
