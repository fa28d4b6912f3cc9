"""What is read of a request; all else in it goes to the upstream as it came."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NoReturn

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from editcli.serve.wire import MAX_ANSWERS, UnicodeText

if TYPE_CHECKING:
    from editors.model.tokenization import Prompt

SYSTEM = ("system", "developer")  # both are called `system` in a chat template
SPEAKING = (*SYSTEM, "user", "assistant")  # tools do not speak


class _Loose(BaseModel):
    """Takes fields that nobody here reads, of any value."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Part(_Loose):
    text: UnicodeText | None = None


class _Message(_Loose):
    role: str
    content: UnicodeText | list[_Part] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text or "" for part in self.content)
        return self.content or ""


class Asked(_Loose):
    """A request. ``path``: the endpoint that it is for, here and at the upstream."""

    path: ClassVar[str]
    model: str
    stream: bool | None = None
    _body: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        """All of the request, as it came."""
        return self._body

    @property
    def prompts(self) -> Sequence[Prompt]:
        """What the scope decides on, as `ask` would read it."""
        raise NotImplementedError

    @classmethod
    async def of(cls, request: Request) -> Asked:
        """The body of ``request``; raises RequestValidationError if it cannot be read."""
        try:
            body = json.loads(await request.body(), parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise RequestValidationError(
                [{"type": "json_invalid", "loc": ("body",), "msg": str(error)}]
            ) from error
        try:
            asked = cls.model_validate(body)
        except ValidationError as error:
            found = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
            raise RequestValidationError(found) from error
        asked._body = body
        return asked


class ChatAsked(Asked):
    """A request to `chat/completions`."""

    path: ClassVar[str] = "chat/completions"
    messages: Annotated[list[_Message], Field(min_length=1)]

    @property
    def prompts(self) -> Sequence[Prompt]:
        """The chat up to the last turn of a user, so that a question is decided in the same way
        before and after tools were called for it; nothing if no user speaks. Calls and results of
        tools are left out, and so are images."""
        turns = [
            {"role": "system" if message.role in SYSTEM else message.role, "content": message.text}
            for message in self.messages
            if message.role in SPEAKING and (message.text or message.role != "assistant")
        ]
        while turns and turns[-1]["role"] != "user":
            turns.pop()
        return [turns] if turns else []


class CompletionAsked(Asked):
    """A request to `completions`. Prompts as token ids are not supported."""

    path: ClassVar[str] = "completions"
    prompt: UnicodeText | Annotated[list[UnicodeText], Field(min_length=1, max_length=MAX_ANSWERS)]

    @property
    def prompts(self) -> Sequence[Prompt]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
