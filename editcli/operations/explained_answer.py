"""An answer of a version, and which edit gave it and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from editcli.wording import counted

if TYPE_CHECKING:
    from editors import FactClosure
    from editors.inference.decisions import Decision
    from editors.inference.generation import Answer
    from editors.methods.base import Method
    from editors.methods.edit_state import EditState


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
        from editors.inference.decisions import UNCLAIMED

        why, details = method.explain(taken, state) if state else ("", {})
        decision = taken or UNCLAIMED  # where edits are always on, none is taken
        asked_for = decision.fact if decision.score > decision.threshold else None
        closure = state.closed.get(asked_for) if state and asked_for else None
        pruning = state.pruning if state else None
        scored = decision.threshold != float("inf")
        record = {
            "edited": taken and decision.opened if state else False,
            "fact": decision.fact if decision.opened else None,
            "score": round(decision.score, 4) if scored else None,
            "threshold": round(decision.threshold, 4) if scored else None,
            "closed": closure is not None,
            "yielded": decision.yielded,
            **details,
            "prefer": pruning and pruning.prefer,
        }
        notes = [why or f"the base model{_why_base(decision, closure, edits=bool(state))}"]
        if state and pruning:
            heads = counted(len(pruning.mask.heads), "head")
            stale = " (ranked with other edits in force)" if state.stale else ""
            notes.append(f"pruned to prefer {pruning.prefer}: {heads}{stale}")
        return ExplainedDecision(tuple(notes), record)


CUT_OFF = "the answer is cut off; `--max-new-tokens` sets how long it may be"


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


def _why_base(decision: Decision, closure: FactClosure | None, *, edits: bool) -> str:
    """Why the base answered."""
    if not edits:
        return ", without edits"
    if decision.threshold == float("inf"):
        return ": no edit claims this prompt"
    if decision.yielded:
        return f": the passage speaks of fact {decision.fact}, and this version prefers the passage"
    if closure:
        return f": the prompt asks for fact {decision.fact}, which was {closure.reason}"
    return f": score {decision.score:.3f}, threshold {decision.threshold:.3f}"
