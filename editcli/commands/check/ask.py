"""`editcli ask`: what the model says, and which edit made it say so."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option

from editcli import exit_codes
from editcli.cli.console import Output
from editcli.cli.options import (
    READS,
    RUNS_MODEL,
    Invocation,
    SystemOption,
    VersionOption,
    shared,
)
from editcli.files.prompts import read_prompt
from editors import EditorError

if TYPE_CHECKING:
    from editcli.operations.explained_answer import ExplainedAnswer
    from editors.inference.edited_model import EditedModel
    from editors.model.tokenization import Prompt

STDIN = "-"


@shared(*READS, *RUNS_MODEL)
def command(
    call: Invocation,
    prompt: Annotated[
        str,
        Argument(
            metavar="PROMPT",
            help="What to ask the model, or - for one prompt a line from standard input.",
        ),
    ],
    context: Annotated[
        str | None, Option(metavar="TEXT", help="A passage to put before the prompt.")
    ] = None,
    chat: Annotated[
        bool, Option("--chat", help="Ask in a chat, through the tokenizer's chat template.")
    ] = False,
    system: SystemOption = None,
    version: VersionOption = "HEAD",
    base: Annotated[bool, Option("--base", help="Ask the unedited base model.")] = False,
    max_new_tokens: Annotated[
        int, Option(metavar="N", min=1, help="The longest answer, in tokens.")
    ] = 32,
) -> None:
    """Ask the edited model, and see whether an edit answered and why.

    With - for PROMPT, each line of standard input is asked as soon as it is read, and answered at
    once. The model is loaded once. A line that is a JSON list of turns, each with a role and a
    content, is a chat; any other line is a prompt. Blank lines are passed over. A line that cannot
    be asked is named and left out; the exit code is then 4. JSON has the number of the line.

    \b
    Examples:
      editcli ask "The capital of France is"
      editcli ask "What is the capital of France?" --version v0002
      editcli ask "Capital of France?" --system "Answer in one word." --json
      editcli ask - --chat --json < questions.txt
    """
    from editcli.operations.explained_answer import ExplainedAnswer
    from editcli.operations.session import Session
    from editors.inference.edited_model import EditedModel
    from editors.inference.generation import answers

    store = call.open_store()
    chosen = store.version(version)
    chats = chat or system is not None
    session = Session.open(call, store, chats=chats)
    state = None if base else session.state(chosen)
    attached: AbstractContextManager[EditedModel] = (
        session.method.attach(state) if state else nullcontext(EditedModel.unedited(session.base))
    )
    with attached as model:

        def ask(asked: Prompt) -> ExplainedAnswer:
            whole = _whole(asked, context, system, chats=chats)
            [answer] = answers(model, [whole], max_new_tokens)
            return ExplainedAnswer.of(answer, session.method, state)

        if prompt == STDIN:
            _answer_lines(call.out, ask)
        else:
            _print(call.out, ask(prompt), one_line=False)


def _whole(asked: Prompt, context: str | None, system: str | None, *, chats: bool) -> Prompt:
    """What the model is to see: ``asked`` after the passage ``context``, and as a chat if ``chats``
    say so. A chat that has a system turn keeps its own."""
    from editors.model.tokenization import in_chat

    turns = [] if isinstance(asked, str) else [*asked]
    text = asked if isinstance(asked, str) else turns.pop()["content"]
    if context is not None:
        text = f"{context} {text}"
    if isinstance(asked, str) and not chats:
        return text
    own = any(turn["role"] == "system" for turn in turns)
    [*first, last] = in_chat(text, None if own else system)
    return [*first, *turns, last]


def _answer_lines(out: Output, ask: Callable[[Prompt], ExplainedAnswer]) -> None:
    """Answer each line of standard input; exits with 4 where some could not be asked."""
    refused = False
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            prompt = read_prompt(line)
            if prompt is None:
                continue
            answered = ask(prompt)
        except EditorError as error:
            refused = True
            out.line_error(number, error)
            out.flush()
            continue
        # For a program, the next line is the answer to the next prompt.
        _print(out, answered, {"line": number}, one_line=not out.terminal)
        out.flush()  # a program may wait for this answer before it asks again
    if refused:
        raise Exit(exit_codes.SOME_REFUSED)


def _print(
    out: Output,
    answered: ExplainedAnswer,
    place: dict[str, int] | None = None,
    *,
    one_line: bool,
) -> None:
    """Print an answer, with its line breaks or on ``one_line``; JSON has its ``place`` too."""
    if out.json_mode:
        out.record({**(place or {}), **answered.record})
        return
    if one_line:
        out.finding(answered.text)
    else:
        out.passage(answered.text)
    out.note(*answered.notes)
