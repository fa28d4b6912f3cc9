"""The server in front of an upstream: its endpoints."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from httpx import Response as Answer
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from editcli.cli.console import Output
from editcli.errors import UnknownVersion
from editcli.serve import wire
from editcli.serve.catalogue import BASE, Catalogue
from editcli.serve.connections import GONE, ClientGoneError, Counting, while_connected
from editcli.serve.engine import Served
from editcli.serve.exchange import FACTS_HEADER, facts_of
from editcli.serve.metrics import Metrics
from editcli.serve.problems import UnreadableVersionError, add_errors, words_of
from editcli.serve.upstream.adapters import Adapters, lacking
from editcli.serve.upstream.asked import Asked, ChatAsked, CompletionAsked
from editcli.serve.upstream.client import Upstream, UpstreamFailedError, passed_headers
from editcli.serve.upstream.deciding import Deciding
from editcli.serve.upstream.parts import Part, parts_of
from editcli.serve.upstream.replies import Replies, close_all
from editcli.wording import counted
from editors import EditorError

TRACED = ("x-request-id", "traceparent", "tracestate")  # headers that go on to the upstream


def make_front(
    deciding: Deciding, catalogue: Catalogue, upstream: Upstream, adapters: Adapters, out: Output
) -> ASGIApp:
    """The web application before ``upstream``. Warnings go to ``out``. At its end, ``deciding`` and
    ``upstream`` are closed."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        looking = asyncio.create_task(look_at_upstream())
        try:
            yield
        finally:
            looking.cancel()
            deciding.close()
            await upstream.close()

    app = FastAPI(title="editcli", docs_url=None, redoc_url=None, lifespan=lifespan)
    add_errors(app)

    @app.exception_handler(UpstreamFailedError)
    async def failed(_: Request, error: UpstreamFailedError) -> Response:
        return JSONResponse(error.body, error.status, error.headers)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [*map(wire.listed_model, await names())]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        await find(name)
        return wire.listed_model(name)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await answer(await ChatAsked.of(request), request)

    @app.post("/v1/completions")
    async def completion(request: Request) -> Response:
        return await answer(await CompletionAsked.of(request), request)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        await upstream.models()
        return {"status": "ok", "version": catalogue.current.id}

    @app.get("/metrics")
    async def counters() -> Response:
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")

    async def look_at_upstream() -> None:
        try:
            await upstream.base_model()
            missing = await adapters.missing(await deciding.adapters(catalogue.current))
        except UpstreamFailedError as error:
            out.warn(error.message)
            return
        if missing:
            out.warn(
                f"the upstream lacks {counted(len(missing), 'adapter')}, such as {missing[0]}; "
                "prompts that those are to answer are refused"
            )

    async def names() -> list[str]:
        """All names that a request may give. A client that is left as it was gives that of the
        upstream's base."""
        found = await run_in_threadpool(catalogue.names)
        if await deciding.adapters(catalogue.current):
            found = [catalogue.name, BASE, catalogue.current.id]
        return [*dict.fromkeys([*found, await upstream.base_model()])]

    async def find(name: str) -> Served:
        try:
            served = await run_in_threadpool(catalogue.find, name)
        except UnknownVersion:
            if name != await upstream.base_model():
                raise
            return catalogue.current
        except EditorError as error:  # which is no fault of the request
            raise UnreadableVersionError(words_of(error)) from error
        current = catalogue.current
        if served is not current and await deciding.adapters(served):
            raise EditorError(
                f"only {current.id} can be asked: the upstream holds the adapters of one version",
                f"name the model {catalogue.name!r}",
            )
        return served

    async def answer(asked: Asked, request: Request) -> Response:
        served = await find(asked.model)
        try:
            decided = await while_connected(request, deciding.decided(served, asked.prompts))
            decisions = [one.decision.record for one in decided]
            for record in decisions:
                if record["fact"]:
                    metrics.add("claims", fact=record["fact"])
            parts = parts_of(asked, [one.dispatch for one in decided])
            answers = await while_connected(request, ask_all(asked, parts, _traced(request)))
            headers = {**passed_headers(answers[0][1]), FACTS_HEADER: facts_of(decisions)}
            about = {"editcli": {"version": served.id, "decisions": decisions}}
            replies = Replies(upstream, answers, about, asked.model, served.id, metrics)
            if asked.stream:
                return _Passing(replies.events(), answers, headers)
            whole = await while_connected(request, replies.whole())
        except ClientGoneError:
            return Response(status_code=GONE)
        return Response(json.dumps(whole), headers=headers, media_type="application/json")

    async def ask_all(
        asked: Asked, parts: Sequence[Part], headers: Mapping[str, str]
    ) -> list[tuple[Part, Answer]]:
        """The responses to all parts, which are asked at once; all of them, or none."""

        async def ask(part: Part) -> Answer:
            body = {**part.body, **await adapters.fields(part.adapter)}
            try:
                return await upstream.ask(asked.path, body, headers)
            except UpstreamFailedError as error:
                if part.adapter and error.status == 404:  # it has been taken away
                    raise lacking(part.adapter) from error
                raise

        asking = [asyncio.create_task(ask(part)) for part in parts]
        try:
            found = await asyncio.gather(*asking)
        except BaseException:
            for task in asking:
                task.cancel()
            ended = await asyncio.gather(*asking, return_exceptions=True)
            pairs = zip(parts, ended, strict=True)
            await close_all([(part, one) for part, one in pairs if isinstance(one, Answer)])
            raise
        return [*zip(parts, found, strict=True)]

    return Counting(app, metrics)


def _traced(request: Request) -> dict[str, str]:
    """The headers of a request that go on to the upstream."""
    return {name: value for name, value in request.headers.items() if name in TRACED}


class _Passing(StreamingResponse):
    """A stream that is passed on. It ends at the upstream when it ends here, whoever ends it."""

    def __init__(
        self,
        events: AsyncIterator[str],
        answers: Sequence[tuple[Part, Answer]],
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await close_all(self._answers)
