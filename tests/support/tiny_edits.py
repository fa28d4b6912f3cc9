"""Facts in the words of the tiny models, and settings that train them fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from editors import Fact

if TYPE_CHECKING:
    from editors.methods.base import Applied
    from editors.methods.edit_state import EditState
    from editors.methods.wise.method import Wise

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
PAPER: dict[str, Any] = {"profile": "paper", "prefixes": 2, "max_steps": 12, "shard_size": 2}
PAPER |= {"mask_ratio": 0.5}


class Remembering:
    """A memo in memory that counts what was asked of it."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.hits = 0

    def get(self, key: str) -> bytes | None:
        self.hits += key in self.kept
        return self.kept.get(key)

    def put(self, key: str, payload: bytes) -> None:
        self.kept[key] = payload


def no_edits(method: Wise) -> EditState:
    """The state of a base without edits."""
    from editors.scope.calibration import Phrasings

    groups = [
        Phrasings(subject, (f"the {asked} of {subject} is", f"what is the {asked} of {subject} ?"))
        for subject in ("Spain", "Kenya", "Italy", "Egypt")
        for asked in ("sea", "city", "leader")
    ]
    return method.empty(groups)


def edit(
    method: Wise, facts: Sequence[Fact], state: EditState | None = None, memo: Any = None
) -> Applied:
    """``facts`` applied to ``state`` (default: no edits yet)."""
    from editors.methods.base import NoMemo

    start = no_edits(method) if state is None else state
    return method.apply(start, facts, memo=memo or NoMemo(), on_progress=lambda _: True)
