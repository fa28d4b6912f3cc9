"""The wire format: what OpenAI's completion endpoints take and give, as far as a store can.

What a request may ask is checked here, and nothing is ignored silently: a parameter that is not
supported is refused, unless it has the value that asks for nothing. Source of the format: OpenAI's
API reference, and its Python client, which reads all answers in the tests.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

GREEDY = 1e-5  # a temperature below this means the likeliest tokens
MAX_CHOICES = 128  # for one prompt
MAX_ANSWERS = 1024  # to one request: the header that names their facts has to stay short


def _only(*values: object) -> AfterValidator:
    """Takes values that ask for nothing."""

    def check(value: object) -> object:
        if value not in values:
            raise ValueError(f"is supported only as {' or '.join(map(repr, values))}")
        return value

    return AfterValidator(check)


def _encodable(text: str) -> str:
    """``text``; JSON can hold halves of characters, and no tokenizer takes them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("is not Unicode text") from error
    return text


UnicodeText = Annotated[str, AfterValidator(_encodable)]
_Stop = Annotated[UnicodeText, Field(min_length=1)]


class _Strict(BaseModel):
    """Takes no unknown fields; a field that is null counts as absent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {name: value for name, value in values.items() if value is not None}
        return values


class StreamOptions(_Strict):
    include_usage: bool = False
    include_obfuscation: Annotated[bool, _only(False)] = False


class _TextPart(_Strict):
    type: Literal["text"]
    text: UnicodeText


class Message(_Strict):
    """A turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: UnicodeText | list[_TextPart]

    def turn(self) -> dict[str, str]:
        """The turn as a chat template takes it. A developer is what a system was called before."""
        text = self.content
        if not isinstance(text, str):
            text = "".join(part.text for part in text)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class _ResponseFormat(_Strict):
    type: Literal["text"]


class _Asked(_Strict):
    """What both endpoints take."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=4)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None  # says who asks, which changes no answer
    presence_penalty: Annotated[float, _only(0)] = 0
    frequency_penalty: Annotated[float, _only(0)] = 0
    logit_bias: Annotated[dict[str, float], _only({})] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> _Asked:
        if self.stream_options and not self.stream:
            raise ValueError("stream_options is for streams: set stream")
        return self

    @property
    def length(self) -> int | None:
        """The length of the longest answer in tokens, if the request names it."""
        return self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn, rather than the likeliest one chosen."""
        return self.temperature >= GREEDY

    @property
    def counts_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatAsked(_Asked):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Annotated[bool, _only(False)] = False
    tools: Annotated[list[Any], _only([])] = Field(default_factory=list)
    tool_choice: Annotated[str, _only("none", "auto")] = "none"
    modalities: Annotated[list[str], _only(["text"])] = Field(default_factory=lambda: ["text"])
    response_format: _ResponseFormat | None = None
    store: Annotated[bool, _only(False)] = False

    @model_validator(mode="after")
    def _one_length(self) -> ChatAsked:
        if self.max_tokens and self.max_completion_tokens not in (None, self.max_tokens):
            raise ValueError("max_tokens and max_completion_tokens differ: name one of them")
        return self

    @model_validator(mode="after")
    def _ends_with_a_question(self) -> ChatAsked:
        if self.messages[-1].role != "user":
            raise ValueError(
                f"the last message has the role {self.messages[-1].role!r}, and not 'user'"
            )
        return self

    @property
    def length(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def prompts(self) -> list[Any]:
        """The one prompt: the turns of the chat."""
        return [[message.turn() for message in self.messages]]


class CompletionAsked(_Asked):
    """The body of POST /v1/completions. Prompts as token ids are not supported."""

    prompt: UnicodeText | Annotated[list[UnicodeText], Field(min_length=1)]
    logprobs: Annotated[int, _only(0)] = 0
    echo: Annotated[bool, _only(False)] = False
    best_of: int | None = None

    @model_validator(mode="after")
    def _best_of_all(self) -> CompletionAsked:
        if self.best_of not in (None, self.n):
            raise ValueError("best_of is supported only as n")
        return self

    @model_validator(mode="after")
    def _not_too_many(self) -> CompletionAsked:
        if len(self.prompts) * self.n > MAX_ANSWERS:
            raise ValueError(f"prompt and n ask for more than {MAX_ANSWERS} answers")
        return self

    @property
    def prompts(self) -> list[Any]:
        """All prompts, each a plain text."""
        return [self.prompt] if isinstance(self.prompt, str) else [*self.prompt]


class Form(ABC):
    """How one endpoint says things."""

    def __init__(self, model: str, prefix: str, kind: str, chunk_kind: str) -> None:
        self._identity: dict[str, Any] = {
            "id": f"{prefix}-{uuid4().hex}",
            "created": int(time.time()),
        }
        self._identity["model"] = model
        self._kind, self._chunk_kind = kind, chunk_kind

    def whole(self, choices: Sequence[dict[str, Any]], **more: object) -> dict[str, Any]:
        """An answer that is not streamed."""
        return {**self._identity, "object": self._kind, "choices": choices, **more}

    def chunk(self, choices: Sequence[dict[str, Any]], **more: object) -> dict[str, Any]:
        """A part of a stream."""
        return {**self._identity, "object": self._chunk_kind, "choices": choices, **more}

    @abstractmethod
    def choice(self, index: int, text: str, reason: str) -> dict[str, Any]:
        """A whole answer."""

    @abstractmethod
    def first(self, index: int) -> dict[str, Any]:
        """The beginning of a streamed answer."""

    @abstractmethod
    def piece(self, index: int, text: str, reason: str | None = None) -> dict[str, Any]:
        """A piece of a streamed answer; with a ``reason``, the last."""


class ChatForm(Form):
    def __init__(self, model: str) -> None:
        super().__init__(model, "chatcmpl", "chat.completion", "chat.completion.chunk")

    def choice(self, index: int, text: str, reason: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}

    def first(self, index: int) -> dict[str, Any]:
        return _delta(index, {"role": "assistant", "content": ""}, None)

    def piece(self, index: int, text: str, reason: str | None = None) -> dict[str, Any]:
        return _delta(index, {"content": text} if text or reason is None else {}, reason)


def _delta(index: int, delta: Mapping[str, str], reason: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


class CompletionForm(Form):
    def __init__(self, model: str) -> None:
        super().__init__(model, "cmpl", "text_completion", "text_completion")

    def first(self, index: int) -> dict[str, Any]:
        return self.piece(index, "")

    def choice(self, index: int, text: str, reason: str) -> dict[str, Any]:
        return self.piece(index, text, reason)

    def piece(self, index: int, text: str, reason: str | None = None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}


def event(message: object) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(message)}\n\n"


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """How many tokens a request took."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def listed_model(name: str) -> dict[str, Any]:
    """A model, as GET /v1/models lists it. When it was made is not known of a base."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "editcli"}


def problem(message: str, status: int, code: str | None = None, param: str | None = None) -> Any:
    """An error object."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def first_problem(errors: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The error object of a body that is refused; ``errors``: those of pydantic."""
    # A value that may have one of several types has a problem with each. The one that lies deepest
    # is with the type that was meant. The path has the name of a type in it.
    fields = [error["loc"][:2] for error in errors]
    found = max(
        (error for error, field in zip(errors, fields, strict=True) if field == fields[0]),
        key=lambda error: len(error["loc"]),
    )
    path = [part for part in found["loc"] if isinstance(part, int) or part.isidentifier()]
    param = ".".join(str(part) for part in path if part != "body") or None
    what = f"`{param}`" if param else "the body"
    messages = {
        "extra_forbidden": f"{what} is not supported",
        "missing": f"{what} is missing",
        "json_invalid": "the body is not JSON",
    }
    reason = str(found["msg"]).removeprefix("Value error, ")
    message = messages.get(found["type"], f"{what}: {reason[:1].lower()}{reason[1:]}")
    return dict(problem(message, 400, None, param))
