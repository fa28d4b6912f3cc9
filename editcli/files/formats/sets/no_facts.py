"""Sets whose rows are no facts: the keys that they are recognised by, and what they are for."""

from __future__ import annotations

from dataclasses import dataclass

_MEASURE = "`editcli conflict measure FILE` takes JSON Lines with `question`, `context`"


@dataclass(frozen=True)
class NoFacts:
    """Rows that are recognised, and are no facts. ``hint``: what can be done with them."""

    title: str
    keys: tuple[str, ...]
    hint: str


NO_FACTS = (
    NoFacts(
        "a conflict file of editcli",
        ("question", "context", "context_answer"),
        "`editcli conflict measure FILE`",
    ),
    NoFacts(
        "ConflictQA, passages against memory",
        ("question", "memory_answer", "counter_answer", "counter_memory"),
        f"{_MEASURE} (its `counter_memory`), `context_answer` and `memory_answer`",
    ),
    NoFacts(
        "Memo-Trap, instructions against memory",
        ("prompt", "classes", "answer_index"),
        "name a file of facts: `editcli facts formats` lists the formats",
    ),
)
