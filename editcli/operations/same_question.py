"""Locality prompts that ask the question of their own fact.

Public sets hold some: they call a paraphrase of the edited question near, and a version that
answers it with the edit looks bad. They are told by what tells prompts in a store with the scope
``sentence``: the router over the one fact, with the sentence encoder as it ships. It asks no base,
so the embedded model lends its tokenizer.

Near prompts are hard to tell by likeness alone: "the mother of X is" is much like "the father of X
is". So the answers of the set have a say, where it gives both. The same question has the old answer
of the fact; and a prompt that names the target asks for something else ("X, which is not TARGET,
is").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from json import dumps, loads
from typing import Literal

from editcli.files.corpus import read_corpus
from editcli.files.packaged import ShippedCalibrations
from editcli.models.loading import load_base
from editcli.models.locations import ATLAS
from editcli.wording import counted
from editors import Fact, Probe
from editors.text_matching import normalised
from editors.text_matching.names import whole_word_spans

KEY = "x_same_question"  # of a fact: the prompts that were set apart
SHOWN = 5  # prompts of each reason, for people

Reason = Literal["prompt", "rephrase", "meaning"]
REASONS: dict[Reason, str] = {
    "prompt": "is the prompt of the fact",
    "rephrase": "is one of its rephrases",
    "meaning": "asks the same in other words",
}

Likeness = Literal["same", "like", "other"]
"""Whether a prompt asks the question of a fact: for sure, enough for a router, or not."""

Compare = Callable[[Fact, Sequence[str]], list[Likeness]]
"""How like the question of a fact some prompts are."""

Flagged = list[tuple[Probe, Reason]]


def by_sentences() -> Compare:
    """Compares by the sentence encoder that ships: "like" is what its router claims, and "same" is
    as near as a fact must be to a relation to be recognised.

    Raises:
        EditorError: the encoder is not installed.
    """
    from editors.inference.decisions import decided
    from editors.model.tokenization import encode_prompts
    from editors.scope.fact_scope import FactScope
    from editors.scope.relation.encoders.sentence import SentenceEncoder
    from editors.scope.settings import ScopeSettings

    base = load_base(ATLAS, device="cpu")
    scope = FactScope(base, ScopeSettings(scope="sentence"))
    start = scope.start(read_corpus(), ShippedCalibrations())
    sure = SentenceEncoder.recognised

    def compare(fact: Fact, prompts: Sequence[str]) -> list[Likeness]:
        known = scope.only(start, [fact])
        router = scope.router(known, {fact.id: fact}, lambda _: 0, context_first=False)
        with base.probing():
            decisions = decided(router, encode_prompts(base.tokenizer, prompts))
        return [
            "other" if not found.opened else "same" if found.score > sure else "like"
            for found in decisions
        ]

    return compare


def set_apart(fact: Fact, compare: Compare) -> tuple[Fact, Flagged]:
    """``fact`` without the locality prompts that ask its own question, which are now under
    :data:`KEY`, each with its reason; and these prompts."""
    rephrases = {normalised(text) for text in (*fact.rephrases, *fact.variants)}
    alike = compare(fact, [probe.prompt for probe in fact.locality]) if fact.locality else []

    def reason(probe: Probe, likeness: Likeness) -> Reason | None:
        text = normalised(probe.prompt)
        if text == normalised(fact.prompt):
            return "prompt"
        if text in rephrases:
            return "rephrase"
        return "meaning" if _asks_the_same(fact, probe, likeness) else None

    reasons = [reason(*pair) for pair in zip(fact.locality, alike, strict=True)]
    judged = [*zip(fact.locality, reasons, strict=True)]
    flagged = [(probe, why) for probe, why in judged if why is not None]
    if not flagged:
        return fact, []
    extra = dict(fact.extra)
    earlier = loads(extra.get(KEY, "[]"))
    extra[KEY] = dumps([*earlier, *(_entry(probe, why) for probe, why in flagged)])
    kept = tuple(probe for probe, why in judged if why is None)
    return replace(fact, locality=kept, extra=tuple(extra.items())), flagged


def _asks_the_same(fact: Fact, probe: Probe, likeness: Likeness) -> bool:
    if likeness == "other" or whole_word_spans(fact.target, probe.prompt):
        return False
    if probe.answer is None or fact.ground_truth is None:
        return likeness == "same"
    return normalised(probe.answer) == normalised(fact.ground_truth)


def _entry(probe: Probe, reason: Reason) -> dict[str, str]:
    answer = {"answer": probe.answer} if probe.answer else {}
    return {"prompt": probe.prompt, **answer, "kind": probe.kind, "reason": reason}


@dataclass(slots=True)
class NearPrompts:
    """Sets prompts apart, and remembers them: each with the number of its row and its fact.
    ``looked_at`` counts all locality prompts."""

    compare: Compare
    looked_at: int = 0
    found: list[tuple[int, Fact, Probe, Reason]] = field(default_factory=list)

    def without(self, row: int, fact: Fact) -> Fact:
        """``fact``, of the row with this number, as :func:`set_apart` leaves it."""
        left, flagged = set_apart(fact, self.compare)
        self.looked_at += len(fact.locality)
        self.found += [(row, fact, probe, reason) for probe, reason in flagged]
        return left

    def summary(self, name: str, unit: str) -> Iterator[str]:
        """For people: how many there are for each reason, and the first of each. ``name``: of the
        file; ``unit``: what its rows are called."""
        yield f"{len(self.found)} of {counted(self.looked_at, 'locality prompt')} moved to {KEY}"
        for reason, count in self._counts().most_common():
            yield f"{counted(count, 'prompt')}: {REASONS[reason]}"
            first = [entry for entry in self.found if entry[-1] == reason][:SHOWN]
            for row, fact, probe, _ in first:
                yield f"  {name}, {unit} {row}: {probe.prompt!r} beside {fact.prompt!r}"

    def record(self, unit: str) -> dict[str, object]:
        """The same as JSON, with all of the prompts."""
        counts = self._counts()
        return {
            "prompts": len(self.found),
            "of": self.looked_at,
            "reasons": {reason: counts[reason] for reason in REASONS},
            "found": [
                {unit: row, "fact": fact.id, "asks": fact.prompt, **_entry(probe, reason)}
                for row, fact, probe, reason in self.found
            ],
        }

    def _counts(self) -> Counter[Reason]:
        return Counter(reason for *_, reason in self.found)
