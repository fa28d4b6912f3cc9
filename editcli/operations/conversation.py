"""A conversation with one version: turns, answers, corrections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from editcli.cli.options import Invocation
from editcli.operations.attachment import Attachment
from editcli.operations.editing.apply import ApplyResult
from editcli.operations.editing.edit_fact import edit_fact
from editcli.operations.explained_answer import ExplainedAnswer
from editcli.operations.session import Session
from editcli.store.records import Version
from editors import EditorError, Fact

if TYPE_CHECKING:
    from editors.inference.decisions import Decision
    from editors.inference.live_answers import LiveAnswer
    from editors.methods.edit_state import EditState
    from editors.model.tokenization import Prompt, Turn

NOTHING_ASKED = "nothing has been asked yet", "ask a question first"


@dataclass(frozen=True, slots=True)
class Listening:
    """Who listens to an answer: ``said`` takes its pieces, ``interrupted`` ends it."""

    said: Callable[[str], None] | None = None
    interrupted: Callable[[], bool] = lambda: False


class Conversation:
    """Turns with a version of a store, which corrections replace by the next version.

    Where the tokenizer has no chat template, each question is asked plain and by itself.
    """

    def __init__(
        self, session: Session, attachment: Attachment, version: Version, max_new_tokens: int
    ) -> None:
        self.system: str | None = None
        self._last: ExplainedAnswer | None = None
        self._session, self._attachment = session, attachment
        self._max_new_tokens = max_new_tokens
        self._version, self._state = version, session.state(version)
        self._turns: list[Turn] = []
        self._asked: tuple[str, Prompt] | None = None  # the last question, as typed and as asked

    @property
    def has_template(self) -> bool:
        """Whether the model is asked in chats."""
        return self._session.base.tokenizer.chat_template is not None

    @property
    def version(self) -> Version:
        """The version that answers."""
        return self._version

    def forget(self) -> None:
        """Forget all turns but the system's."""
        self._turns, self._asked, self._last = [], None, None

    def ask(self, question: str, listening: Listening) -> ExplainedAnswer:
        """The answer to ``question`` after all turns before it, which then are one more.

        Raises:
            PromptTooLong: the turns leave no room for an answer.
            EditorError: the chat template does not take the turns.
        """
        prompt = self._prompt(question)
        answer = self._last = self._answer(prompt, self._state, listening)
        self._asked = question, prompt
        self._turns += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer.text},
        ]
        return answer

    def ask_base(self, listening: Listening) -> ExplainedAnswer:
        """The answer of the unedited base to the last question, which does not become a turn.

        Raises EditorError if nothing has been asked.
        """
        return self._answer(self._question()[1], None, listening)

    def last_answer(self) -> ExplainedAnswer:
        """The last answer of the version; raises EditorError if nothing has been asked."""
        if self._last is None:
            raise EditorError(*NOTHING_ASKED)
        return self._last

    def correct(
        self, target: str, subject: str | None, call: Invocation
    ) -> tuple[Fact, ApplyResult]:
        """Edit ``target`` in as the answer to the last question, as the next version, which answers
        from now on. In the turns, too, ``target`` is the answer.

        Raises:
            EditorError: nothing has been asked; this version is not HEAD; or as
                :func:`~editcli.operations.editing.edit_fact.edit_fact`.
        """
        store = self._session.store
        fact = Fact(self._question()[0], target, subject, author=call.who or None)
        if (head := store.head()).id != self._version.id:
            raise EditorError(
                f"this chat is with {self._version.id}, and an edit would change {head.id}, the "
                "version that is HEAD",
                "start a new chat with HEAD, or make the version of this one HEAD: "
                f"`editcli checkout {self._version.id}`",
            )
        self._attachment.detach()  # training sees the base
        result = edit_fact(self._session, fact, call)
        self._version = store.version(result.version)
        self._state = self._session.state(self._version)
        if self._turns:
            self._turns[-1] = {"role": "assistant", "content": target}
        return fact, result

    def _question(self) -> tuple[str, Prompt]:
        """The last question, as typed and as asked."""
        if self._asked is None:
            raise EditorError(*NOTHING_ASKED)
        return self._asked

    def _prompt(self, question: str) -> Prompt:
        from editors.model.tokenization import in_chat

        if not self.has_template:
            return question
        [*system, turn] = in_chat(question, self.system)
        return [*system, *self._turns, turn]

    def _answer(
        self, prompt: Prompt, state: EditState | None, listening: Listening
    ) -> ExplainedAnswer:
        from editors.inference.generation import Answer
        from editors.inference.live_answers import Request, answer_live

        follower = _Follower(listening)
        with self._attachment.using(state) as model:
            request = Request.of(model, prompt, self._max_new_tokens)
            answer_live(model, [request], [follower])
        answer = Answer(follower.text, follower.stopped, follower.decision)
        return ExplainedAnswer.of(answer, self._session.method, state)


@dataclass
class _Follower:
    """Keeps an answer, and hands on its pieces."""

    listening: Listening
    text: str = ""
    stopped: bool = False
    decision: Decision | None = field(default=None)

    @property
    def wants_pieces(self) -> bool:
        return self.listening.said is not None

    def decided(self, decision: Decision | None) -> None:
        self.decision = decision

    def said(self, piece: str) -> None:
        assert self.listening.said is not None
        self.listening.said(piece)

    def wants_more(self) -> bool:
        return not self.listening.interrupted()

    def ended(self, answer: LiveAnswer) -> None:
        self.text = answer.text
        self.stopped = answer.end != "length"  # whoever interrupts an answer knows that it is
