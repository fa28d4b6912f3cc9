"""The server's endpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp

from editcli.errors import UnknownVersion
from editcli.serve import wire
from editcli.serve.catalogue import Catalogue
from editcli.serve.connections import GONE, ClientGoneError, Counting, while_connected
from editcli.serve.engine import Engine, Served
from editcli.serve.exchange import FACTS_HEADER, Exchange, facts_of
from editcli.serve.metrics import Metrics
from editcli.serve.problems import UnreadableVersionError, add_errors, problem_of, words_of
from editcli.serve.wire import event
from editors import EditorError

if TYPE_CHECKING:
    from editors.inference.live_answers import LiveAnswer


def make_app(engine: Engine, catalogue: Catalogue, longest: int) -> ASGIApp:
    """The web application over ``engine``. ``longest``: the length of the longest answer in
    tokens, where a request names none."""
    metrics = Metrics()
    app = FastAPI(title="editcli", docs_url=None, redoc_url=None)
    add_errors(app)

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
            raise UnreadableVersionError(words_of(error)) from error

    async def answer(
        asked: wire.ChatAsked | wire.CompletionAsked, form: wire.Form, request: Request
    ) -> Response:
        served = await find(asked.model)
        exchange = Exchange(asked, served, longest, metrics)
        exchange.submit(engine)
        try:
            decisions = await while_connected(request, exchange.decided())
            headers = {FACTS_HEADER: facts_of(decisions)}
            about = {"editcli": {"version": served.id, "decisions": decisions}}
            if asked.stream:
                stream = _stream(exchange, form, about, counts_usage=asked.counts_usage)
                return StreamingResponse(stream, headers=headers, media_type="text/event-stream")
            answers = await while_connected(request, exchange.whole())
        except ClientGoneError:
            exchange.drop()
            return Response(status_code=GONE)
        choices = [form.choice(i, said.text, _reason(said)) for i, said in enumerate(answers)]
        used = wire.usage(**exchange.tokens)
        return JSONResponse(form.whole(choices, usage=used, **about), headers=headers)

    return Counting(app, metrics)


async def _stream(
    exchange: Exchange, form: wire.Form, about: dict[str, Any], *, counts_usage: bool
) -> AsyncIterator[str]:
    """The server-sent events of a streamed answer. The first event of each choice says what was
    decided."""
    usage = {"usage": None} if counts_usage else {}
    try:
        for index in range(exchange.choices):
            yield event(form.chunk([form.first(index)], **usage, **about))
        async for index, said in exchange.told():
            piece = (
                form.piece(index, said)
                if isinstance(said, str)
                else form.piece(index, "", _reason(said))
            )
            yield event(form.chunk([piece], **usage))
        if counts_usage:
            yield event(form.chunk([], usage=wire.usage(**exchange.tokens)))
        yield "data: [DONE]\n\n"
    except Exception as error:  # the status has been sent already
        yield event(problem_of(error)[1])
    finally:
        exchange.drop()  # the client may have left


def _reason(answer: LiveAnswer) -> str:
    """Why an answer ended, as OpenAI calls it."""
    return "stop" if answer.end == "stop" else "length"
