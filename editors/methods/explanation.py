"""Why a prompt is answered as it is: by which edit, or why by none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from editors.facts import FactClosure
from editors.inference.decisions import UNCLAIMED, Decision
from editors.methods.base import Method
from editors.methods.edit_state import EditState

NO_EDITS = "the base model, without edits"


@dataclass(frozen=True, slots=True)
class Explanation:
    """``why``: a sentence; ``record``: the same for programs, with the same keys for every method.

    Keys of ``record``: ``edited``, whether an edit answers (None for a method that is always on);
    ``fact``, the id of the fact that answers; ``score`` and ``threshold`` of the nearest fact, None
    without one; ``closed``, whether that fact was taken back; ``yielded``, whether the edit yields
    to a passage; and what the method adds.
    """

    why: str
    record: dict[str, Any]

    @staticmethod
    def of(
        decision: Decision | None, method: Method[Any, Any], state: EditState | None
    ) -> Explanation:
        """The explanation of ``decision``, taken with the edits ``state`` of ``method``; None: the
        base alone answers."""
        why, details = method.explain(decision, state) if state else (NO_EDITS, {})
        taken = decision or UNCLAIMED  # where edits are always on, none is taken
        asked_for = taken.fact if taken.score > taken.threshold else None
        closure = state.closed.get(asked_for) if state and asked_for else None
        scored = taken.threshold != float("inf")
        record = {
            "edited": decision and taken.opened if state else False,
            "fact": taken.fact if taken.opened else None,
            "score": round(taken.score, 4) if scored else None,
            "threshold": round(taken.threshold, 4) if scored else None,
            "closed": closure is not None,
            "yielded": taken.yielded,
            **details,
        }
        return Explanation(why or f"the base model: {_why_base(taken, closure)}", record)


def _why_base(decision: Decision, closure: FactClosure | None) -> str:
    """Why no edit answers."""
    if decision.threshold == float("inf"):
        return "no edit claims this prompt"
    if decision.yielded:
        return f"the passage speaks of fact {decision.fact}, and this version prefers the passage"
    if closure:
        return f"the prompt asks for fact {decision.fact}, which was {closure.reason}"
    return f"score {decision.score:.3f}, threshold {decision.threshold:.3f}"
