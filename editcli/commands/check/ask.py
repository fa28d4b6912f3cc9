"""`editcli ask`: what the model says, and which edit made it say so."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from editcli.cli.console import Output
from editcli.cli.invocation import Invocation
from editcli.cli.options import READS, RUNS_MODEL, VersionOption, shared
from editcli.wording import counted

if TYPE_CHECKING:
    from editors import FactClosure
    from editors.inference.decisions import Decision
    from editors.inference.edited_model import EditedModel
    from editors.methods.edit_state import EditState


@shared(*READS, *RUNS_MODEL)
def command(
    call: Invocation,
    prompt: Annotated[str, Argument(metavar="PROMPT", help="What to ask the model.")],
    context: Annotated[
        str | None, Option(metavar="TEXT", help="A passage to put before the prompt.")
    ] = None,
    version: VersionOption = "HEAD",
    base: Annotated[bool, Option("--base", help="Ask the unedited base model.")] = False,
    max_new_tokens: Annotated[
        int, Option(metavar="N", min=1, help="The longest answer, in tokens.")
    ] = 32,
) -> None:
    """Ask the edited model, and see whether an edit answered and why.

    \b
    Examples:
      editcli ask "The capital of France is"
      editcli ask "What is the capital of France?" --version v0002
      editcli ask "The capital of France is" --base --json
    """
    from editcli.operations.session import Session
    from editors.inference.edited_model import EditedModel
    from editors.inference.generation import answers

    out = call.out
    store = call.open_store()
    chosen = store.version(version)
    session = Session.open(call, store)
    state = None if base else session.state(chosen)
    attached: AbstractContextManager[EditedModel] = (
        session.method.attach(state) if state else nullcontext(EditedModel.unedited(session.base))
    )
    with attached as model:
        text = prompt if context is None else f"{context} {prompt}"
        [answer] = answers(model, [text], max_new_tokens)
    decision = answer.decision
    why, details = session.method.explain(decision, state) if state else ("", {})
    closure = _closure(decision, state) if decision and state else None
    pruning = state.pruning if state else None
    if call.json:
        record = _record(decision, details, closure) | ({"edited": False} if base else {})
        out.record({"answer": answer.text, **record, "prefer": pruning.prefer if pruning else None})
        return
    out.finding(answer.text)
    if not answer.stopped:
        out.note("the answer is cut off; `--max-new-tokens` sets how long it may be")
    out.note(why or _why_base(decision, closure, base=base))
    if state and pruning:
        _note_pruning(out, state)


def _record(
    decision: Decision | None, details: dict[str, Any], closure: FactClosure | None
) -> dict[str, Any]:
    """The decision on the prompt; ``edited`` is null where the method is always on."""
    scored = decision is not None and decision.threshold != float("inf")
    return {
        "edited": decision.opened if decision else None,
        "fact": decision.fact if decision and decision.opened else None,
        "score": round(decision.score, 4) if decision and scored else None,
        "threshold": round(decision.threshold, 4) if decision and scored else None,
        "closed": closure is not None,
        "yielded": bool(decision and decision.yielded),
        **details,
    }


def _closure(decision: Decision, state: EditState) -> FactClosure | None:
    """Why the fact that the prompt asks for is no longer in force; None where it is."""
    if decision.fact is None or decision.score <= decision.threshold:
        return None
    return state.closed.get(decision.fact)


def _why_base(decision: Decision | None, closure: FactClosure | None, *, base: bool) -> str:
    """Why the base answered."""
    if base:
        return "the base model, without edits"
    if decision is None or decision.threshold == float("inf"):
        return "the base model: no edit claims this prompt"
    if decision.yielded:
        return (
            f"the base model: the passage speaks of fact {decision.fact}, and this version prefers "
            "the passage"
        )
    if closure:
        return (
            f"the base model: the prompt asks for fact {decision.fact}, which was {closure.reason}"
        )
    return f"the base model: score {decision.score:.3f}, threshold {decision.threshold:.3f}"


def _note_pruning(out: Output, state: EditState) -> None:
    assert state.pruning is not None
    heads = counted(len(state.pruning.mask.heads), "head")
    stale = " (ranked with other edits in force)" if state.stale else ""
    out.note(f"pruned to prefer {state.pruning.prefer}: {heads}{stale}")
