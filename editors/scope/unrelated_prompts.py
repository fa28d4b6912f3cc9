"""Prompts that no edit is about, and prefixes that are unrelated to the prompt after them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from editors.facts import Fact
from editors.inference.edited_model import EditedModel
from editors.inference.generation import answers
from editors.model.base_model import Base

# The base continues these to prefixes. WISE (arXiv 2405.14768, section 3.1) uses ten such texts.
PREFIX_SEEDS = ("I", "You", "Because", "Yes", "In the morning")
PREFIX_LENGTHS = (5, 10)  # the tokens that each seed is continued by

UNRELATED = (
    "The kettle began to whistle while nobody was in the kitchen",
    "What should I cook when there are only eggs left?",
    "He put the ladder back behind the shed and",
    "How do you mend a bicycle tyre without tools?",
    "On rainy afternoons the children used to",
    "Please write a short letter to the landlord.",
    "Why does bread go stale faster in a dry room?",
    "The train was late again, so the passengers",
    "Which of the two jackets is warmer?",
    "After the concert everybody wanted to",
    "Sort these words by length: pear, plum, fig.",
    "My sister keeps a box of buttons that",
    "What is seven times eight?",
    "The last page of the notebook was",
    "How long should rice be boiled?",
    "Give me three names for a small brown dog.",
    "When the light turned green, the driver",
    "The recipe calls for two cups of flour and",
    "Is it better to sleep with the window open?",
    "She folded the map and said",
    "Tell me a joke about a snail.",
    "The meeting was moved to Thursday because",
    "What rhymes with the word orange?",
    "Behind the old barn there was",
)


class UnrelatedPrefixes:
    """Texts to put before a prompt that they are unrelated to. They are generated at first use."""

    def __init__(self, base: Base) -> None:
        self._base = base

    @cached_property
    def generated(self) -> list[str]:
        """Ten prefixes: each seed, continued by the base by 5 tokens and by 10 tokens."""
        model, prefixes = EditedModel.unedited(self._base), []
        with self._base.probing():
            for length in PREFIX_LENGTHS:
                continued = zip(PREFIX_SEEDS, answers(model, PREFIX_SEEDS, length), strict=True)
                prefixes += [f"{seed} {answer.text}".strip() for seed, answer in continued]
        return prefixes

    @cached_property
    def all(self) -> list[str]:
        """The generated prefixes, and the plain sentences of ``UNRELATED``."""
        return [*self.generated, *UNRELATED]


def prefixed(fact: Fact, prefixes: Sequence[str], count: int) -> list[str]:
    """The prompt of ``fact`` after each of ``count`` of the ``prefixes``, which are always the same
    for a fact."""
    start = int(fact.canonical_id(), 16)
    return [f"{prefixes[(start + j) % len(prefixes)]} {fact.prompt}" for j in range(count)]
