"""Connections: noticing that a client has left, and counting responses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from editcli.serve.metrics import Metrics

GONE = 499  # the status of a request whose client left, as others count it

T = TypeVar("T")


class ClientGoneError(Exception):
    """Whoever asked has closed the connection."""


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of ``work``; raises ClientGoneError if the client leaves before."""

    async def leaving() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, left = asyncio.ensure_future(work), asyncio.ensure_future(leaving())
    try:
        await asyncio.wait({working, left}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        working.cancel()
        left.cancel()


class Counting:
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
