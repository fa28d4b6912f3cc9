"""Plain texts of our own: what the router and the trainer take as unrelated to any edit."""

from __future__ import annotations

from collections.abc import Sequence

from editors.facts import Fact

# Beginnings that the base continues into prefixes (WISE section 3.1 uses ten such texts).
PREFIX_SEEDS = ("I", "You", "Because", "Yes", "In the morning")

# Prompts about a subject that ask for nothing in particular: near misses of any edit.
ABOUT_SUBJECT = (
    "{s} is best known for",
    "The history of {s} begins with",
    "Near {s} there is",
    "My opinion of {s} is",
    "Many people think of {s} as",
    "The first thing to know about {s} is",
    "When I hear of {s}, I think of",
    "A short description of {s} would be",
    "The most important thing about {s} is",
    "In a sentence, {s} is",
    "People who like {s} often also like",
    "One thing that sets {s} apart is",
    "The name {s} comes from",
    "Unlike the others, {s} has",
    "In the future, {s} will probably",
    "A common mistake about {s} is",
    "The story behind {s} is",
    "{s} was once described as",
    "At the heart of {s} lies",
    "If you ask about {s}, people will tell you that",
    "The people connected with {s} are",
    "Among experts, {s} is seen as",
    "Every year, {s} attracts",
    "The size of {s} is",
    "Compared with similar names, {s} is",
    "A photograph of {s} would show",
    "Before it became famous, {s} was",
    "An encyclopedia entry on {s} would start with",
    "The best way to learn about {s} is",
    "What surprises people about {s} is that",
    "Who first wrote about {s}?",
    "When was {s} founded?",
    "What colour is {s}?",
    "Where can {s} be found?",
    "What is {s}?",
    "Why is {s} well known?",
    "How old is {s}?",
    "What is the most famous fact about {s}?",
    "How did {s} get its name?",
    "Which language is connected with {s}?",
    "What kind of thing is {s}?",
    "Who would be interested in {s}?",
    "What do people say about {s}?",
    "How large is {s}?",
    "Which country do you connect with {s}?",
    "What came before {s}?",
    "Is {s} still important today?",
    "What does {s} look like?",
    "How would you explain {s} to a child?",
    "Who is the person most closely linked to {s}?",
    "When did people first hear of {s}?",
    "What is similar to {s}?",
    "What happened to {s} in the end?",
    "Can you tell me something about {s}?",
    "In which field is {s} important?",
    "What would you ask an expert on {s}?",
    "Which year is most important for {s}?",
    "What is the opposite of {s}?",
    "Do many people know {s}?",
    "What lies at the origin of {s}?",
)

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
