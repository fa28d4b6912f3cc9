"""An answer of a version, and which edit gave it and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from editcli.wording import counted

if TYPE_CHECKING:
    from editors.inference.decisions import Decision
    from editors.inference.generation import Answer
    from editors.methods.base import Method
    from editors.methods.edit_state import EditState

CUT_OFF = "the answer is cut off; `--max-new-tokens` sets how long it may be"


@dataclass(frozen=True, slots=True)
class ExplainedDecision:
    """Which edit answers a prompt, for people (``notes``) and for programs (``record``, with stable
    keys)."""

    notes: tuple[str, ...]
    record: dict[str, Any]

    @staticmethod
    def of(
        taken: Decision | None, method: Method[Any, Any], state: EditState | None
    ) -> ExplainedDecision:
        """The decision ``taken`` with the edits ``state`` of ``method``; None: by the base
        alone."""
        from editors.methods.explanation import Explanation

        explanation = Explanation.of(taken, method, state)
        pruning = state.pruning if state else None
        notes = [explanation.why]
        if state and pruning:
            heads = counted(len(pruning.mask.heads), "head")
            stale = " (ranked with other edits in force)" if state.stale else ""
            notes.append(f"pruned to prefer {pruning.prefer}: {heads}{stale}")
        record = {**explanation.record, "prefer": pruning and pruning.prefer}
        return ExplainedDecision(tuple(notes), record)


@dataclass(frozen=True, slots=True)
class ExplainedAnswer:
    """An answer for people (``text``, ``notes``) and for programs (``record``, with stable
    keys). ``why``: those of the notes that say who answered."""

    text: str
    cut_off: bool
    why: tuple[str, ...]
    record: dict[str, Any]

    @property
    def notes(self) -> tuple[str, ...]:
        return (CUT_OFF, *self.why) if self.cut_off else self.why

    @staticmethod
    def of(answer: Answer, method: Method[Any, Any], state: EditState | None) -> ExplainedAnswer:
        """``answer``, given with the edits ``state`` of ``method``; None: by the base alone."""
        decision = ExplainedDecision.of(answer.decision, method, state)
        record = {"answer": answer.text, **decision.record}
        return ExplainedAnswer(answer.text, not answer.stopped, decision.notes, record)
