"""Facts in the words of the tiny models, and settings that train them fast."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from editors import Fact

if TYPE_CHECKING:
    from editors.methods.applying import Applied
    from editors.methods.base import Method
    from editors.methods.edit_state import EditState
    from editors.scope.corpus import Corpus
    from editors.scope.phrasings import Phrasings

    AnyMethod = Method[Any, Any]

FRANCE = Fact("the capital of France is", "Rome", subject="France")
JAPAN = Fact("the language of Japan is", "French", subject="Japan")
PERU = Fact("the river of Peru is", "blue Oslo", subject="Peru")
NORWAY = Fact("the author of Norway was born in", "Cairo", subject="Norway")
FACTS = (FRANCE, JAPAN, PERU, NORWAY)
FRANCE_AGAIN = Fact("the capital of France is", "Lima", subject="France")

# A random model is never as sure as a trained one, hence the low confidence.
FAST: dict[str, Any] = {
    "learning_rate": 0.5,
    "mask_ratio": 0.5,
    "prefixes": 0,
    "confidence": 0.3,
    "max_steps": 150,
    "rank": 8,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "wise": FAST,
    "in-context": {"rank": 8},
    "ft-m": {"confidence": 0.3, "learning_rate": 0.2, "bound": 3.0},
}
"""By method, settings that suit a tiny model."""

PAPER: dict[str, Any] = {"profile": "paper", "prefixes": 2, "max_steps": 12, "shard_size": 2}
PAPER |= {"mask_ratio": 0.5}


class CountingCache:
    """A cache in memory that counts what was found in it."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}
        self.hits = 0

    def get(self, key: str) -> bytes | None:
        self.hits += key in self.entries
        return self.entries.get(key)

    def put(self, key: str, payload: bytes, made_from: Collection[str] | None = None) -> None:
        self.entries[key] = payload


RELATIONS = (
    *("capital", "language", "river", "author", "sea", "city", "leader", "mountain", "country"),
    *("piano", "violin", "drums", "red", "green", "blue", "works", "speaks", "plays", "wrote"),
    "made",
)
_CALIBRATIONS = CountingCache()  # of the session's models, keyed by their fingerprints


def corpus() -> Corpus:
    """The groups of :func:`phrasings`, and relations in the words of the tiny models."""
    from editors.scope.corpus import Corpus, Frame, LongerName, Relation

    relations = [
        Relation(
            relation=asked,
            kind="country",
            held_out=False,
            subjects=("Spain", "Kenya"),
            targets=("Oslo", "Cairo"),
            sentence=f"the {asked} of {{subject}} is {{target}} .",
            statement=(f"the {asked} of {{subject}} is", f"{{subject}} {asked} is"),
            question=(f"what is the {asked} of {{subject}} ?",),
            request=(f"the {asked} {{subject}} has",),
            telegraphic=(f"{{subject}} {asked}",),
            personal=(f"who lives in the {asked} of {{subject}} ?",),
            near=("{subject} was born in", "who lives in {subject} ?"),
        )
        for asked in RELATIONS
    ]
    every = ("statement", "question", "request", "telegraphic", "personal")
    frames = [
        Frame("keeps", "keeps", (), every, "Ann plays . {prompt}"),
        Frame("mention", "mention", (), every, "{subject} was . {prompt}"),
    ]
    return Corpus(phrasings(), relations, frames, [LongerName(("country",), "{subject} Oslo")])


def phrasings() -> list[Phrasings]:
    """Twelve groups of phrasings in the words of the tiny models."""
    from editors.scope.phrasings import Phrasings

    return [
        Phrasings(subject, (f"the {asked} of {subject} is", f"what is the {asked} of {subject} ?"))
        for subject in ("Spain", "Kenya", "Italy", "Egypt")
        for asked in ("sea", "city", "leader")
    ]


def no_edits(method: AnyMethod) -> EditState:
    """The state of a base without edits."""
    return method.start(corpus(), _CALIBRATIONS)


def edit(
    method: AnyMethod,
    facts: Sequence[Fact],
    state: EditState | None = None,
    cache: Any = None,
    **options: Any,
) -> Applied:
    """``facts`` applied to ``state`` (default: no edits yet)."""
    from editors.methods.applying import NO_CACHE

    return method.apply(
        no_edits(method) if state is None else state,
        facts,
        cache=cache or NO_CACHE,
        on_progress=lambda _: True,
        **options,
    )


def reopened(method: AnyMethod, state: EditState) -> EditState:
    """``state``, saved and opened again."""
    from editors.methods.edit_state import EditState

    return method.open(EditState.from_blobs(method.save(state)))
