"""`editcli blame`: which edit answers a prompt, and where it comes from."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from editcli.cli.options import (
    READS,
    RUNS_MODEL,
    Invocation,
    SystemOption,
    VersionOption,
    shared,
)
from editcli.commands.history.show import fact_lines, fact_record


@shared(*READS, *RUNS_MODEL)
def command(
    call: Invocation,
    prompt: Annotated[str, Argument(metavar="PROMPT", help="The text to answer.")],
    version: VersionOption = "HEAD",
    chat: Annotated[bool, Option("--chat", help="Ask in a chat.")] = False,
    system: SystemOption = None,
) -> None:
    """Say which edit answers a prompt, why, and who made it.

    The prompt is routed as by `editcli ask`, and not answered.

    \b
    Examples:
      editcli blame "What is the capital of France?"
      editcli blame "Capital of France?" --chat --json
    """
    from editcli.operations.explained_answer import ExplainedDecision
    from editcli.operations.session import Session
    from editors.inference.generation import answers
    from editors.model.tokenization import in_chat

    store = call.open_store()
    chosen = store.version(version)
    chats = chat or system is not None
    session = Session.open(call, store, chats=chats)
    state = session.state(chosen)
    with session.method.attach(state) as model:
        [answer] = answers(model, [in_chat(prompt, system) if chats else prompt], 1)
    decision = ExplainedDecision.of(answer.decision, session.method, state)
    fact = decision.record["fact"]
    past = store.past(chosen, fact) if fact else None
    record = fact_record(store, chosen, past) if past else None
    if call.json:
        call.out.record({"version": chosen.id, **decision.record, "past": record})
        return
    if record is None:
        call.out.finding("no edit answers this prompt")
    else:
        call.out.record(fact_lines(record))
    call.out.note(*decision.notes)
