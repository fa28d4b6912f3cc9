"""`editcli chat`: a conversation with a version, in which it can be corrected."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

from typer import Exit, Option

from editcli import exit_codes
from editcli.cli.options import READS, RUNS_MODEL, WRITES, Invocation, VersionOption, shared
from editcli.cli.typed_lines import typed_lines
from editcli.errors import UsageError
from editcli.files.prompts import read_text
from editors import EditorError

if TYPE_CHECKING:
    from editcli.operations.conversation import Conversation, Listening
    from editcli.operations.explained_answer import ExplainedAnswer

HELP = {
    "/system TEXT": "a system turn before all others; without TEXT, none",
    "/base": "what the unedited base answers to the last question",
    "/why": "which edit gave the last answer, or why none did",
    "/edit ANSWER [-s SUBJECT]": "correct the last answer: edit it in, as a new version",
    "/new": "forget the turns",
    "/help": "this list",
    "/quit": "leave, as Ctrl-D does",
    "//...": "a turn that begins with a slash",
}
_EDIT = re.compile(r"(?P<target>.*?)(?:\s+(?:-s|--subject)\s+(?P<subject>.+))?", re.DOTALL)


@shared(*WRITES, *READS, *RUNS_MODEL)
def command(
    call: Invocation,
    version: VersionOption = "HEAD",
    system: Annotated[
        str | None, Option(metavar="TEXT", help="A system turn before all others.")
    ] = None,
    max_new_tokens: Annotated[
        int, Option(metavar="N", min=1, help="The longest answer, in tokens.")
    ] = 512,
) -> None:
    """Talk with a version, and correct what it says.

    Each line is a turn. Its answer is that of `ask --chat` to all turns so far, token for token. A
    line that begins with a slash is a command; /help lists them. /edit ANSWER edits the last
    question into the model and goes on with the new version, whose author and message are those of
    the options. Ctrl-C stops an answer, Ctrl-D leaves.

    A model whose tokenizer has no chat template is asked plain, each turn by itself. If standard
    input is no terminal, each answer is one line. A line that cannot be answered is named and left
    out; the exit code is then 4. JSON has the number of the line.

    \b
    Examples:
      editcli chat
      editcli chat --version v0002 --system "Answer in one word."
      editcli chat --json < turns.txt
    """
    from editcli.operations.attachment import Attachment
    from editcli.operations.conversation import Conversation
    from editcli.operations.session import Session

    store = call.open_store()
    chosen = store.version(version)
    session = Session.open(call, store, chats=system is not None)
    typed = sys.stdin.isatty()
    with Attachment(session) as attachment:
        conversation = Conversation(session, attachment, chosen, max_new_tokens)
        conversation.system = system
        if not conversation.has_template:
            call.tell("the model has no chat template: it is asked plain, each turn by itself")
        if typed:
            call.tell(f"{chosen.id}; /help lists the commands, Ctrl-D leaves")
        refused = _Chat(call, conversation, typed).run()
    if refused and not typed:
        raise Exit(exit_codes.SOME_REFUSED)


class _Chat:
    """Reads lines, and prints what they ask for."""

    def __init__(self, call: Invocation, conversation: Conversation, typed: bool) -> None:
        """``typed``: lines are typed on a terminal."""
        self._call, self._out = call, call.out
        self._conversation, self._typed = conversation, typed
        self._commands: dict[str, Callable[[str], None]] = {
            "system": self._system,
            "base": self._base,
            "why": self._why,
            "edit": self._edit,
            "new": lambda _: self._conversation.forget(),
            "help": self._help,
        }
        self._place: dict[str, int] = {}  # of the line, for JSON

    def run(self) -> bool:
        """Take all lines; returns whether some could not be answered."""
        refused = False
        for number, line in enumerate(self._lines(), start=1):
            self._place = {} if self._typed else {"line": number}
            try:
                text = (line if isinstance(line, str) else read_text(line)).strip()
                if text == "/quit":
                    break
                self._take(text)
            except EditorError as error:
                refused = True
                if self._typed:
                    self._out.warn(error.message, error.hint)
                else:
                    self._out.line_error(number, error)
            self._out.flush()  # a program may wait for this answer before it asks again
        return refused

    def _lines(self) -> Iterator[str | bytes]:
        return typed_lines("> ") if self._typed else iter(sys.stdin.buffer)

    def _take(self, text: str) -> None:
        if text.startswith("/") and not text.startswith("//"):
            name, _, rest = text[1:].partition(" ")
            if name not in self._commands:
                raise UsageError(
                    f"there is no command /{name}",
                    "`/help` lists them; `//` begins a turn that begins with a slash",
                )
            self._commands[name](rest.strip())
        elif text:
            question = text.removeprefix("/")
            self._answer(lambda listening: self._conversation.ask(question, listening))

    def _answer(self, ask: Callable[[Listening], ExplainedAnswer]) -> None:
        """Print an answer, on a terminal as it comes."""
        from editcli.operations.conversation import Listening
        from editcli.operations.explained_answer import CUT_OFF
        from editcli.operations.interrupts import noticing_interrupts

        streams = self._typed and self._out.terminal
        interruptible = (
            noticing_interrupts(lambda: None) if self._typed else nullcontext(lambda: False)
        )
        with interruptible as interrupted:
            said = self._out.piece if streams else None
            answer = ask(Listening(said, interrupted))
            if streams:
                self._out.piece("\n")
            stopped = interrupted()
        if not streams and self._out.terminal:
            self._out.passage(answer.text)
        elif not streams:
            self._out.finding(answer.text)
        if self._out.json_mode:
            self._out.record({**self._place, **answer.record})
        if stopped:
            self._out.note("stopped")
        elif answer.cut_off:
            self._out.note(CUT_OFF)

    def _system(self, text: str) -> None:
        if text and not self._conversation.has_template:
            raise UsageError(
                "the model has no chat template, so there is no system turn",
                "put what it should know into each question",
            )
        self._conversation.system = text or None

    def _base(self, _: str) -> None:
        self._answer(self._conversation.ask_base)

    def _why(self, _: str) -> None:
        answer = self._conversation.last_answer()
        self._out.finding(*answer.why)
        if self._out.json_mode:
            self._out.record({**self._place, "why": [*answer.why]})

    def _edit(self, text: str) -> None:
        from editcli.operations.editing.edit_fact import NO_SUBJECT, warn_of_failures, what_was_done

        parts = _EDIT.fullmatch(text)
        assert parts is not None  # the pattern matches every text
        subject = parts["subject"]
        fact, result = self._conversation.correct(parts["target"], subject, self._call)
        in_force = result.unchanged[0] if result.unchanged else fact.id
        self._out.text(f"{result.version}: {what_was_done(result)}", f"fact {in_force}")
        if self._out.json_mode:
            self._out.record({**self._place, **result.to_dict(), "fact": in_force})
        elif subject is None:
            self._out.hint(NO_SUBJECT.format(option="`/edit ANSWER -s SUBJECT`"))
        warn_of_failures(self._out, fact, result)

    def _help(self, _: str) -> None:
        width = max(map(len, HELP))
        self._out.text(*(f"{name:<{width}}  {what}" for name, what in HELP.items()))
