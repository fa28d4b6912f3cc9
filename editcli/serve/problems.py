"""Errors as OpenAI's clients take them: a status, and an error object."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from editcli.errors import ServerClosing, UnknownVersion
from editcli.serve import wire
from editors import EditorError, PromptTooLong


class UnreadableVersionError(Exception):
    """The edits of a version cannot be read."""


def problem_of(error: Exception) -> tuple[int, Any]:
    """The status and the error object of ``error``."""
    if isinstance(error, UnknownVersion):
        return 404, wire.problem(words_of(error), 404, "model_not_found", "model")
    if isinstance(error, PromptTooLong):
        return 400, wire.problem(words_of(error), 400, "context_length_exceeded")
    if isinstance(error, ServerClosing):
        return 503, wire.problem(words_of(error), 503)
    if isinstance(error, EditorError):
        return 400, wire.problem(words_of(error), 400)
    if isinstance(error, UnreadableVersionError):
        return 500, wire.problem(str(error), 500)
    return 500, wire.problem("the server failed; its log says why", 500)


def words_of(error: EditorError) -> str:
    return f"{error.message}: {error.hint}" if error.hint else error.message


def add_errors(app: FastAPI) -> None:
    """All errors as error objects."""

    @app.exception_handler(RequestValidationError)
    async def bad_body(_: Request, error: RequestValidationError) -> Response:
        return JSONResponse(wire.first_problem(error.errors()), 400)

    @app.exception_handler(HTTPException)
    async def no_such_page(request: Request, error: HTTPException) -> Response:
        what = f"{request.method} {request.url.path}: {str(error.detail).lower()}"
        return JSONResponse(wire.problem(what, error.status_code), error.status_code)

    @app.exception_handler(EditorError)
    @app.exception_handler(UnreadableVersionError)
    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        status, body = problem_of(error)
        return JSONResponse(body, status)
