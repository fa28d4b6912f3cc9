"""Plain texts of our own: what the router and the trainer take as unrelated to any edit."""

from __future__ import annotations

from collections.abc import Sequence

from editors.facts import Fact

# Beginnings that the base continues into prefixes (WISE section 3.1 uses ten such texts).
PREFIX_SEEDS = ("I", "You", "Because", "Yes", "In the morning")

# Prompts that no edit is about.
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


def prefixed(fact: Fact, beginnings: Sequence[str], count: int) -> list[str]:
    """The fact's prompt after ``count`` of the ``beginnings``: always the same ones for a fact."""
    start = int(fact.canonical_id(), 16)
    return [f"{beginnings[(start + j) % len(beginnings)]} {fact.prompt}" for j in range(count)]
