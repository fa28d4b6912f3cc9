"""An answer of a version, and which edit gave it and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from editcli.wording import counted

if TYPE_CHECKING:
    from editors.inference.generation import Answer
    from editors.methods.base import Method
    from editors.methods.edit_state import EditState


@dataclass(frozen=True, slots=True)
class ExplainedAnswer:
    """An answer for people (``text``, ``notes``) and for programs (``record``, with stable
    keys)."""

    text: str
    notes: tuple[str, ...]
    record: dict[str, Any]

    @staticmethod
    def of(answer: Answer, method: Method[Any, Any], state: EditState | None) -> ExplainedAnswer:
        """``answer``, given with the edits ``state`` of ``method``; None: by the base alone."""
        from editors.methods.explanation import Explanation

        explanation = Explanation.of(answer.decision, method, state)
        pruning = state.pruning if state else None
        notes = []
        if not answer.stopped:
            notes.append("the answer is cut off; `--max-new-tokens` sets how long it may be")
        notes.append(explanation.why)
        if state and pruning:
            heads = counted(len(pruning.mask.heads), "head")
            stale = " (ranked with other edits in force)" if state.stale else ""
            notes.append(f"pruned to prefer {pruning.prefer}: {heads}{stale}")
        record = {
            "answer": answer.text,
            **explanation.record,
            "prefer": pruning and pruning.prefer,
        }
        return ExplainedAnswer(answer.text, tuple(notes), record)
