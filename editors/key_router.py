"""The key router: scope is decided by what the unedited base makes of the last prompt token.

A fact owns keys: the base's states at the last token of its prompt, of its variants and of a few
prefixed forms. A prompt is a candidate for a fact only if it names the fact's subject. Among
candidates the score adds how near the states are (centred cosine) and how far the base gives both
the same answer; the best one opens its shard if its score passes that shard's threshold, which is
calibrated on near misses made automatically. Keys of a closed fact stay and lead to main memory,
so that closing one fact moves no other prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from editors.base import Base
from editors.facts import Fact
from editors.look import Ids, Look, look, overlap
from editors.routing import MAIN, Decision
from editors.texts import ABOUT_SUBJECT, UNRELATED
from editors.tokens import encode_prompt


@dataclass(frozen=True, slots=True)
class KeySettings:
    """How keys are made and thresholds are set.

    ``answer_weight``: what full agreement of the base's answers adds to a cosine; ``margin``: where
    between the hardest near misses and the facts' own forms the threshold lies (0 to 1);
    ``false_open``: the share of near misses that may lie above the threshold.
    """

    answer_weight: float = 0.5
    margin: float = 0.5
    false_open: float = 0.01
    floor: float = 0.5


class Subjects:
    """Which facts' subjects a text names, as whole words, whatever the case."""

    def __init__(self, subjects: Sequence[str | None]) -> None:
        self._always = [i for i, subject in enumerate(subjects) if subject is None]
        self._by_word: dict[str, dict[str, list[int]]] = {}
        for i, subject in enumerate(subjects):
            if subject is not None:
                folded = subject.casefold()
                first = _WORD.search(folded)
                word = first.group() if first else folded
                self._by_word.setdefault(word, {}).setdefault(folded, []).append(i)

    def named_in(self, text: str) -> list[int]:
        """The facts whose subject ``text`` names, and those that have none."""
        folded = text.casefold()
        found = list(self._always)
        for word in set(_WORD.findall(folded)):
            for subject, facts in self._by_word.get(word, {}).items():
                if re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", folded):
                    found.extend(facts)
        return sorted(found)


_WORD = re.compile(r"\w+")


class KeyRouter:
    """Routes by keys; made by :meth:`fit`, saved as :meth:`tensors`."""

    def __init__(
        self,
        base: Base,
        facts: Sequence[Fact],
        shards: Sequence[int],
        tensors: Mapping[str, torch.Tensor],
        settings: KeySettings,
    ) -> None:
        """``shards[i]``: where fact ``i`` leads, -1 for main memory (a closed fact)."""
        self._base, self._facts, self._shards = base, facts, shards
        self._tensors, self._settings = tensors, settings
        self._subjects = Subjects([fact.subject for fact in facts])
        self._same: dict[Ids, int] = {}
        for i, fact in enumerate(facts):  # a later fact with the same prompt takes it over
            self._same[encode_prompt(base.tokenizer, fact.prompt)] = i
        owners = tensors["owners"].tolist() if facts else []
        self._keys_of: list[list[int]] = [[] for _ in facts]
        for key, owner in enumerate(owners):
            self._keys_of[owner].append(key)

    def decide(self, prompts: Sequence[Ids]) -> list[Decision]:
        decisions = [MAIN] * len(prompts)
        if not self._facts:
            return decisions
        texts = self._base.tokenizer.batch_decode(
            [list(p) for p in prompts], skip_special_tokens=True
        )
        candidates = [self._subjects.named_in(text) for text in texts]
        rows = [i for i, found in enumerate(candidates) if found]
        if not rows:
            return decisions
        seen = look(self._base, [prompts[i] for i in rows], _layers(self._base))
        scores = self._scores(seen, [candidates[i] for i in rows])
        for i, scored in zip(rows, scores, strict=True):
            same = self._same.get(prompts[i])
            fact, score = max(scored.items(), key=lambda item: (item[1], item[0]))
            if same is not None:
                fact, score = same, 1 + self._settings.answer_weight
            threshold = float(self._tensors["thresholds"][fact])
            opened = score > threshold or same is not None
            decisions[i] = Decision(
                self._shards[fact] if opened else -1, self._facts[fact].id, score, threshold
            )
        return decisions

    def _scores(self, seen: Look, candidates: Sequence[Sequence[int]]) -> list[dict[int, float]]:
        """For each prompt, the score of each candidate fact."""
        t = self._tensors
        queries = _normal(seen.states, t["centre"])  # [rows, width]
        result = []
        for row, facts in enumerate(candidates):
            keys = [key for fact in facts for key in self._keys_of[fact]]
            near = (t["keys"][keys] @ queries[row]).tolist()
            owners = t["owners"][keys].tolist()
            cosine: dict[int, float] = {}
            for owner, value in zip(owners, near, strict=True):
                cosine[owner] = max(cosine.get(owner, -1.0), value)
            n = len(facts)
            same = overlap(
                t["chances"][facts],
                t["tokens"][facts],
                seen.chances[row].expand(n, -1),
                seen.tokens[row].expand(n, -1),
            ).tolist()
            weight = self._settings.answer_weight
            result.append(
                {f: cosine[f] + weight * agreed for f, agreed in zip(facts, same, strict=True)}
            )
        return result

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """What :class:`KeyRouter` needs beside the facts, to be saved."""
        return self._tensors

    @staticmethod
    def fit(
        base: Base,
        facts: Sequence[Fact],
        shards: Sequence[int],
        prefixes: Sequence[str],
        settings: KeySettings,
    ) -> KeyRouter:
        """Make keys for ``facts`` and calibrate their thresholds.

        ``prefixes``: unrelated beginnings; a fact has its prompt after two of them among its keys.
        """
        encode = base.tokenizer
        forms: list[str] = []
        owners: list[int] = []
        for i, fact in enumerate(facts):
            own = [fact.prompt, *fact.variants]
            own += [f"{prefixes[(i + j) % len(prefixes)]} {fact.prompt}" for j in range(2)]
            forms.extend(own)
            owners.extend([i] * len(own))
        layers = _layers(base)
        seen = look(base, [encode_prompt(encode, form) for form in forms], layers)
        plain = look(base, [encode_prompt(encode, text) for text in UNRELATED], layers)
        centre = torch.cat([seen.states, plain.states]).mean(0)  # [layers, hidden]
        first = torch.tensor([owners.index(i) for i in range(len(facts))])
        tensors = {
            "keys": _normal(seen.states, centre),
            "owners": torch.tensor(owners),
            "centre": centre,
            "chances": seen.chances[first],
            "tokens": seen.tokens[first],
            "thresholds": torch.zeros(len(facts)),
        }
        router = KeyRouter(base, facts, shards, tensors, settings)
        tensors["thresholds"] = router._thresholds()
        return KeyRouter(base, facts, shards, tensors, settings)

    def _thresholds(self) -> torch.Tensor:
        """float32 ``[facts]``: for each shard, above all but ``false_open`` of its near misses."""
        misses: list[tuple[int, str]] = []
        for i, fact in enumerate(self._facts):
            if fact.subject is not None:
                misses += [(i, about.replace("{s}", fact.subject)) for about in ABOUT_SUBJECT[::6]]
        encode = self._base.tokenizer
        seen = look(
            self._base, [encode_prompt(encode, text) for _, text in misses], _layers(self._base)
        )
        scored = self._scores(seen, [[i] for i, _ in misses])
        by_shard: dict[int, list[float]] = {}
        for (i, _), scores in zip(misses, scored, strict=True):
            by_shard.setdefault(self._shards[i], []).append(scores[i])
        s = self._settings
        own = 1 + s.answer_weight
        found = torch.full((len(self._facts),), s.floor)
        for i, shard in enumerate(self._shards):
            values = by_shard.get(shard, [])
            if values:
                hardest = float(torch.tensor(values).quantile(1 - s.false_open))
                found[i] = max(s.floor, hardest + s.margin * (own - hardest))
        return found


def _layers(base: Base) -> list[int]:
    """The blocks whose states make a key: the edited one and the last."""
    return sorted({base.layer, len(base.architecture.blocks) - 1})


def _normal(states: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """``[n, layers, hidden]`` -> ``[n, layers * hidden]``: centred, every layer of equal length."""
    unit: torch.Tensor = torch.nn.functional.normalize(states - centre, dim=-1)
    flat: torch.Tensor = (unit / unit.shape[1] ** 0.5).flatten(1)
    return flat
