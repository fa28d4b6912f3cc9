"""The server's endpoints."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from editcli.errors import ServerClosing, UnknownVersion
from editcli.serve import wire
from editcli.serve.catalogue import Catalogue
from editcli.serve.engine import Engine, Served
from editcli.serve.exchange import Exchange, facts_of
from editcli.serve.metrics import Metrics
from editors import EditorError, PromptTooLong

if TYPE_CHECKING:
    from editors.inference.live_answers import LiveAnswer

FACTS_HEADER = "x-editcli-facts"
GONE = 499  # the status of a request whose client left, as others count it

T = TypeVar("T")


def make_app(engine: Engine, catalogue: Catalogue, longest: int) -> ASGIApp:
    """The web application over ``engine``. ``longest``: the length of the longest answer in
    tokens, where a request names none."""
    metrics = Metrics()
    app = FastAPI(title="editcli", docs_url=None, redoc_url=None)
    _add_errors(app)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        names = await run_in_threadpool(catalogue.names)
        return {"object": "list", "data": [*map(wire.listed_model, names)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name not in await run_in_threadpool(catalogue.names):
            await find(name)
        return wire.listed_model(name)

    @app.post("/v1/chat/completions")
    async def chat(asked: wire.ChatAsked, request: Request) -> Response:
        return await answer(asked, wire.ChatForm(asked.model), request)

    @app.post("/v1/completions")
    async def completion(asked: wire.CompletionAsked, request: Request) -> Response:
        return await answer(asked, wire.CompletionForm(asked.model), request)

    @app.get("/metrics")
    async def counters() -> Response:
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")

    async def find(name: str) -> Served:
        try:
            return await run_in_threadpool(catalogue.find, name)
        except UnknownVersion:
            raise
        except EditorError as error:  # which is no fault of the request
            raise _UnreadableVersionError(_words_of(error)) from error

    async def answer(
        asked: wire.ChatAsked | wire.CompletionAsked, form: wire.Form, request: Request
    ) -> Response:
        served = await find(asked.model)
        exchange = Exchange(asked, served, longest, metrics)
        exchange.submit(engine)
        try:
            decisions = await _while_connected(request, exchange.decided())
            headers = {FACTS_HEADER: facts_of(decisions)}
            about = {"editcli": {"version": served.id, "decisions": decisions}}
            if asked.stream:
                stream = _stream(exchange, form, about, counts_usage=asked.counts_usage)
                return StreamingResponse(stream, headers=headers, media_type="text/event-stream")
            answers = await _while_connected(request, exchange.whole())
        except _ClientGoneError:
            exchange.drop()
            return Response(status_code=GONE)
        choices = [form.choice(i, said.text, _reason(said)) for i, said in enumerate(answers)]
        used = wire.usage(**exchange.tokens)
        return JSONResponse(form.whole(choices, usage=used, **about), headers=headers)

    return _Counting(app, metrics)


async def _stream(
    exchange: Exchange, form: wire.Form, about: dict[str, Any], *, counts_usage: bool
) -> AsyncIterator[str]:
    """The server-sent events of a streamed answer. The first event of each choice says what was
    decided."""
    usage = {"usage": None} if counts_usage else {}
    try:
        for index in range(exchange.choices):
            yield _event(form.chunk([form.first(index)], **usage, **about))
        async for index, said in exchange.told():
            piece = (
                form.piece(index, said)
                if isinstance(said, str)
                else form.piece(index, "", _reason(said))
            )
            yield _event(form.chunk([piece], **usage))
        if counts_usage:
            yield _event(form.chunk([], usage=wire.usage(**exchange.tokens)))
        yield "data: [DONE]\n\n"
    except Exception as error:  # the status has been sent already
        yield _event(_problem_of(error)[1])
    finally:
        exchange.drop()  # the client may have left


def _event(message: object) -> str:
    return f"data: {json.dumps(message)}\n\n"


def _reason(answer: LiveAnswer) -> str:
    """Why an answer ended, as OpenAI calls it."""
    return "stop" if answer.end == "stop" else "length"


class _UnreadableVersionError(Exception):
    """The edits of a version cannot be read."""


class _ClientGoneError(Exception):
    """Whoever asked has closed the connection."""


async def _while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of ``work``; raises _ClientGoneError if the client leaves before."""

    async def leaving() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, left = asyncio.ensure_future(work), asyncio.ensure_future(leaving())
    try:
        await asyncio.wait({working, left}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise _ClientGoneError
        return working.result()
    finally:
        working.cancel()
        left.cancel()


def _problem_of(error: Exception) -> tuple[int, Any]:
    """The status and the error object of ``error``."""
    if isinstance(error, UnknownVersion):
        return 404, wire.problem(_words_of(error), 404, "model_not_found", "model")
    if isinstance(error, PromptTooLong):
        return 400, wire.problem(_words_of(error), 400, "context_length_exceeded")
    if isinstance(error, ServerClosing):
        return 503, wire.problem(_words_of(error), 503)
    if isinstance(error, EditorError):
        return 400, wire.problem(_words_of(error), 400)
    if isinstance(error, _UnreadableVersionError):
        return 500, wire.problem(str(error), 500)
    return 500, wire.problem("the server failed; its log says why", 500)


def _words_of(error: EditorError) -> str:
    return f"{error.message}: {error.hint}" if error.hint else error.message


def _add_errors(app: FastAPI) -> None:
    """All errors as error objects."""

    @app.exception_handler(RequestValidationError)
    async def bad_body(_: Request, error: RequestValidationError) -> Response:
        return JSONResponse(wire.first_problem(error.errors()), 400)

    @app.exception_handler(HTTPException)
    async def no_such_page(request: Request, error: HTTPException) -> Response:
        what = f"{request.method} {request.url.path}: {str(error.detail).lower()}"
        return JSONResponse(wire.problem(what, error.status_code), error.status_code)

    @app.exception_handler(EditorError)
    @app.exception_handler(_UnreadableVersionError)
    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        status, body = _problem_of(error)
        return JSONResponse(body, status)


class _Counting:
    """Counts the responses of an application, those to what it did not expect included."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", "unknown")
                self._metrics.add("requests", path=path, status=str(message["status"]))
            await send(message)

        await self._app(scope, receive, counting)
