"""The engine that answers, as seen from here: a client of its HTTP interface."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from editcli.errors import UsageError
from editcli.serve import wire

KEY_VARIABLE = "EDITCLI_UPSTREAM_KEY"
CONNECT_S = 10.0  # before an upstream that does not answer counts as down
HIDDEN = "***"  # in place of the key, wherever the upstream repeats it
UNAUTHORISED = 401

_KEY = re.compile(r"[!#-\[\]-~]+")  # what a header can hold, and JSON as it is
_URL_HINT = (
    "`--upstream` takes the address that a client of OpenAI's API takes: http://HOST:8000/v1"
)


class UpstreamFailedError(Exception):
    """The upstream has not answered. ``status`` and ``body`` are what the client is told, and
    ``headers`` go with them."""

    def __init__(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, dict(headers or {})

    @staticmethod
    def saying(message: str, status: int, code: str) -> UpstreamFailedError:
        """An error of this server's, not of the upstream's."""
        return UpstreamFailedError(status, wire.problem(message, status, code))

    @property
    def message(self) -> str:
        return str(self.body["error"]["message"])


class Upstream:
    """An engine with OpenAI's endpoints.

    The key is in one header of each request, and in no message: where an error of the upstream
    repeats it, it is hidden.
    """

    def __init__(
        self, url: str, *, model: str | None, timeout: float, key: str | None = None
    ) -> None:
        """``url``: where its endpoints are; ``model``: the name of its base, by default the first
        that it lists; ``timeout``: in seconds, the longest silence of the upstream.

        Raises UsageError for an address or a key that cannot be used.
        """
        self.url, self._model, self._key = _checked_url(url), model, _checked_key(key)
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout, connect=min(CONNECT_S, timeout), pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
        )
        self._timeout = timeout

    async def close(self) -> None:
        await self._client.aclose()

    async def models(self) -> list[str]:
        """The names of its models; raises UpstreamFailedError."""
        listed = await self._json(f"{self.url}/models")
        try:
            return [str(model["id"]) for model in listed["data"]]
        except (LookupError, TypeError) as error:
            raise self._no_answer("lists its models in an unknown form") from error

    async def base_model(self) -> str:
        """The name of its base; raises UpstreamFailedError."""
        if self._model is None:
            listed = await self.models()
            if not listed:
                raise self._no_answer("lists no model: `--upstream-model` names one")
            self._model = listed[0]
        return self._model

    async def lora_adapters(self) -> list[tuple[int, str]]:
        """The number and the path of each adapter of a llama.cpp server; raises
        UpstreamFailedError."""
        listed = await self._json(f"{self.url.removesuffix('/v1')}/lora-adapters")
        try:
            return [(int(adapter["id"]), str(adapter["path"])) for adapter in listed]
        except (LookupError, TypeError, ValueError) as error:
            raise self._no_answer("lists its adapters in an unknown form") from error

    async def ask(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> httpx.Response:
        """The response to a request, of which only the head has been read; to be closed.

        Raises UpstreamFailedError, with what the upstream says, if it refuses.
        """
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **headers}
        request = self._client.build_request(
            "POST", f"{self.url}/{path}", content=json.dumps(body), headers=headers
        )
        return await self._sent(request)

    async def read(self, response: httpx.Response) -> dict[str, Any]:
        """The whole answer; raises UpstreamFailedError."""
        try:
            found = json.loads(await response.aread())
        except httpx.HTTPError as error:
            raise self._failure(error) from error
        except ValueError as error:
            raise self._no_answer("does not answer in JSON") from error
        if not isinstance(found, dict):
            raise self._no_answer("does not answer with a JSON object")
        return found

    async def lines(self, response: httpx.Response) -> AsyncIterator[str]:
        """The lines of an answer that is streamed; raises UpstreamFailedError."""
        begun = bytearray()
        try:
            async for data in response.aiter_bytes():
                # Not splitlines: it takes characters for ends of lines that JSON may hold.
                *whole, rest = data.split(b"\n")
                for line in whole:
                    begun += line
                    yield begun.decode(errors="replace").removesuffix("\r")
                    begun.clear()
                begun += rest
            if begun:
                yield begun.decode(errors="replace")
        except httpx.HTTPError as error:
            raise self._failure(error) from error

    async def _json(self, url: str) -> Any:
        response = await self._sent(self._client.build_request("GET", url))
        try:
            return json.loads(await response.aread())
        except httpx.HTTPError as error:
            raise self._failure(error) from error
        except ValueError as error:
            raise self._no_answer("does not answer in JSON") from error
        finally:
            await response.aclose()

    async def _sent(self, request: httpx.Request) -> httpx.Response:
        try:
            response = await self._client.send(request, stream=True)
            if response.is_success:
                return response
            try:
                data = await response.aread()
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise self._failure(error) from error
        raise self._refusal(response, data)

    def _refusal(self, response: httpx.Response, data: bytes) -> UpstreamFailedError:
        """What the upstream says, in OpenAI's form."""
        status = response.status_code
        if status == UNAUTHORISED:  # which is no fault of the client
            sent = "refuses the key in" if self._key else "wants a key, which goes into"
            return self._no_answer(f"{sent} {KEY_VARIABLE} (status {status})")
        if status < 400:
            return self._no_answer(f"answers with status {status}: is this its address?")
        try:
            body = json.loads(self.hiding_key(data.decode(errors="replace")))
        except ValueError:
            body = None
        if isinstance(body, dict) and isinstance(body.get("error"), dict):
            message = body["error"].get("message")
            if isinstance(message, str):
                return UpstreamFailedError(status, body, passed_headers(response))
        message = _message_in(body) or f"the upstream answers with status {status}"
        return UpstreamFailedError(status, wire.problem(message, status), passed_headers(response))

    def _failure(self, error: httpx.HTTPError) -> UpstreamFailedError:
        if isinstance(error, httpx.TimeoutException) and not isinstance(
            error, httpx.ConnectTimeout
        ):
            message = f"the upstream at {self.url} has been silent for {self._timeout:g} s"
            return UpstreamFailedError.saying(message, 504, "upstream_timeout")
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            reason = self.hiding_key(str(error)) or "no connection"
            return self._no_answer(f"cannot be reached: {reason[:1].lower()}{reason[1:]}")
        return self._no_answer("has closed the connection before its answer was whole")

    def _no_answer(self, what: str) -> UpstreamFailedError:
        message = f"the upstream at {self.url} {what}"
        return UpstreamFailedError.saying(message, 502, "upstream_failed")

    def hiding_key(self, text: str) -> str:
        """``text`` of an error, without the key."""
        return text.replace(self._key, HIDDEN) if self._key else text


PASSED = ("retry-after", "x-request-id")
PASSED_FROM = "x-ratelimit-"  # headers that begin so


def passed_headers(response: httpx.Response) -> dict[str, str]:
    """The headers of a response that go on to the client."""
    return {
        name: value
        for name, value in response.headers.items()
        if name in PASSED or name.startswith(PASSED_FROM)
    }


def _message_in(body: Any) -> str:
    """The message in an error that is not in OpenAI's form; empty if none is found."""
    if isinstance(body, dict):
        found = (body.get(key) for key in ("message", "error", "detail"))
        return next((text for text in found if isinstance(text, str) and text), "")
    return ""


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        raise UsageError("`--upstream` is not an address", _URL_HINT) from None
    if parts.username or parts.password:
        raise UsageError(
            "`--upstream` holds a name or a password, which others can see",
            f"leave it out, and put a key into {KEY_VARIABLE}",
        )
    if not valid or parts.query or parts.fragment:
        raise UsageError(f"`--upstream` is not an address: {url!r}", _URL_HINT)
    return url.rstrip("/")


def _checked_key(key: str | None) -> str | None:
    if key and not _KEY.fullmatch(key):
        raise UsageError(
            f"the key in {KEY_VARIABLE} holds a space, a quote or another sign that no key has",
            f"set {KEY_VARIABLE} to the key alone",
        )
    return key or None
