"""`editcli ask`: what the model says, and which edit made it say so."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from editcli.cli.options import READS, RUNS_MODEL, Invocation, VersionOption, shared
from editcli.wording import counted

if TYPE_CHECKING:
    from editors import FactClosure
    from editors.inference.decisions import Decision
    from editors.inference.edited_model import EditedModel


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
    from editors.inference.decisions import UNCLAIMED
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
    why, details = session.method.explain(answer.decision, state) if state else ("", {})
    decision = answer.decision or UNCLAIMED  # where edits are always on, none is taken
    asked_for = decision.fact if decision.score > decision.threshold else None
    closure = state.closed.get(asked_for) if state and asked_for else None
    pruning = state.pruning if state else None
    if call.json:
        scored = decision.threshold != float("inf")
        edited = False if base else answer.decision and decision.opened
        out.record(
            {
                "answer": answer.text,
                "edited": edited,
                "fact": decision.fact if decision.opened else None,
                "score": round(decision.score, 4) if scored else None,
                "threshold": round(decision.threshold, 4) if scored else None,
                "closed": closure is not None,
                "yielded": decision.yielded,
                **details,
                "prefer": pruning and pruning.prefer,
            }
        )
        return
    out.finding(answer.text)
    if not answer.stopped:
        out.note("the answer is cut off; `--max-new-tokens` sets how long it may be")
    out.note(why or f"the base model{_why_base(decision, closure, base=base)}")
    if state and pruning:
        heads = counted(len(pruning.mask.heads), "head")
        stale = " (ranked with other edits in force)" if state.stale else ""
        out.note(f"pruned to prefer {pruning.prefer}: {heads}{stale}")


def _why_base(decision: Decision, closure: FactClosure | None, *, base: bool) -> str:
    """Why the base answered."""
    if base:
        return ", without edits"
    if decision.threshold == float("inf"):
        return ": no edit claims this prompt"
    if decision.yielded:
        return f": the passage speaks of fact {decision.fact}, and this version prefers the passage"
    if closure:
        return f": the prompt asks for fact {decision.fact}, which was {closure.reason}"
    return f": score {decision.score:.3f}, threshold {decision.threshold:.3f}"
