"""`editcli serve --upstream`: an upstream that refuses, is down or breaks off, its key, and wrong
options."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from tiny_servers import LONG, TALK, Server, complete, read, serving
from tiny_stores import run
from tiny_upstreams import (
    CHATS,
    ELSEWHERE,
    HAMLET,
    answering,
    free_port,
    fronting,
    needs_encoder,
    posted,
)

import editcli
from editcli.store.store import Store

openai = pytest.importorskip("openai", reason="the client is a development dependency")
for _package in ("fastapi", "httpx"):
    pytest.importorskip(_package, reason="the extra `serve` is not installed")


OWN_WORDS: list[tuple[int, str, str]] = [
    (400, '{"error": {"message": "too long", "type": "t", "param": "p", "code": "c"}}', "too long"),
    (429, '{"object": "error", "message": "slow down", "type": "t", "code": 429}', "slow down"),
    (422, '{"error": "Input validation error", "error_type": "validation"}', "Input validation"),
    (404, '{"detail": "Not Found"}', "Not Found"),
    (503, "<html>busy</html>", "the upstream answers with status 503"),
    (403, '{"error": {"message": "not you"}}', "not you"),
]


@needs_encoder
@pytest.mark.parametrize(("status", "said", "message"), OWN_WORDS)
def test_what_the_upstream_refuses_is_refused_in_its_words(
    in_context: Store, status: int, said: str, message: str
) -> None:
    async def refuse(_: Any) -> Any:
        from fastapi import Response

        return Response(said, status, {"retry-after": "7"})

    with (
        answering(refuse) as url,
        fronting(in_context, url, model="m") as front,
        front.client() as client,
    ):
        for stream in (False, True):
            with pytest.raises(openai.APIStatusError) as refused:
                complete(client, front.name, CHATS[0], stream=stream)
            assert refused.value.status_code == status
            assert message in refused.value.message
            assert refused.value.response.headers["retry-after"] == "7"
            assert refused.value.response.json()["error"].keys() >= {"message"}


@needs_encoder
def test_an_upstream_that_is_down_is_named_until_it_is_up(in_context: Store) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    with fronting(in_context, url, model="base") as front, front.client() as client:
        health = front.url.removesuffix("/v1") + "/health"
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError) as failed:
                complete(client, front.name, HAMLET.prompt, stream=stream)
            assert failed.value.status_code == 502
            assert f"the upstream at {url} cannot be reached" in failed.value.message
        with pytest.raises(HTTPError) as unwell:
            urlopen(health)
        assert unwell.value.code == 502
        assert "cannot be reached" in json.load(unwell.value)["error"]["message"]
        with serving(in_context, port=port):
            assert read(complete(client, front.name, HAMLET.prompt))[2]["fact"] == HAMLET.id
            with urlopen(health) as page:
                assert json.load(page) == {"status": "ok", "version": "v0002"}


@needs_encoder
def test_an_upstream_that_is_silent_is_given_up(in_context: Store) -> None:
    over = threading.Event()

    async def silent(_: Any) -> None:
        while not over.is_set():
            await asyncio.sleep(0.05)

    try:
        with (
            answering(silent) as url,
            fronting(in_context, url, model="m", timeout=0.5) as front,
            front.client() as client,
        ):
            with pytest.raises(openai.InternalServerError) as failed:
                complete(client, front.name, HAMLET.prompt)
            over.set()
    finally:
        over.set()
    assert (failed.value.status_code, failed.value.code) == (504, "upstream_timeout")
    assert "has been silent for 0.5 s" in failed.value.message


@needs_encoder
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_breaks_off_is_an_error(in_context: Store, stream: bool) -> None:
    async def breaking(_: Any) -> Any:
        from fastapi.responses import StreamingResponse

        async def parts() -> Any:
            yield 'data: {"id": "a", "choices": [{"index": 0, "text": "Jane"}]}\n\ndata: {"cho'
            raise ConnectionError

        return StreamingResponse(parts(), media_type="text/event-stream")

    with (
        answering(breaking) as url,
        fronting(in_context, url, model="m") as front,
        front.client() as client,
        pytest.raises(openai.APIError) as failed,
    ):
        read(complete(client, front.name, HAMLET.prompt, stream=stream))
    assert "has closed the connection before its answer was whole" in failed.value.message


@needs_encoder
def test_a_stream_goes_on_line_by_line(in_context: Store) -> None:
    said = "one\u2028two\x85three"
    chunks = [
        {"id": "a", "choices": [{"index": 0, "text": said[:5], "finish_reason": None}], "x": 1},
        {"id": "a", "choices": [{"index": 0, "text": said[5:], "finish_reason": "stop"}]},
    ]
    sent = ": still here\n\n" + "".join(
        f"data: {json.dumps(chunk, ensure_ascii=False)}\r\n\r\n" for chunk in chunks
    )

    async def stream(_: Any) -> Any:
        from fastapi.responses import StreamingResponse

        async def parts() -> Any:
            data = f"{sent}data: [DONE]\n\n".encode()
            for start in range(0, len(data), 7):
                yield data[start : start + 7]

        return StreamingResponse(parts(), media_type="text/event-stream")

    with answering(stream) as url, fronting(in_context, url, model="m") as front:
        body = {"model": front.name, "prompt": HAMLET.prompt, "stream": True}
        _, headers, data = posted(front.url, "/completions", json.dumps(body).encode())
    assert headers["x-editcli-facts"] == HAMLET.id
    lines = [line for line in data.decode().split("\n") if line]
    assert (lines[0], lines[-1]) == (": still here", "data: [DONE]")
    first, second = (json.loads(line.removeprefix("data: ")) for line in lines[1:-1])
    about = first.pop("editcli")
    assert [first, second] == [{**chunk, "model": front.name} for chunk in chunks]
    assert about["decisions"][0]["fact"] == HAMLET.id


@needs_encoder
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_nobody_waits_for_is_given_up_by_the_upstream(
    made: Callable[..., Path], talkative: Store, stream: bool
) -> None:
    store = Store.open(made("--method", "in-context", "--scope", "sentence"))
    with (
        serving(talkative) as engine,
        fronting(store, engine.url, model="base") as front,
        engine.client() as client,
    ):
        place = urlsplit(front.url)
        body = {"model": front.name, "prompt": TALK, "max_tokens": LONG, "stream": stream}
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        if stream:
            assert connection.getresponse().read(100)
        else:
            time.sleep(0.5)  # it has begun
        connection.close()
        assert read(complete(client, "base", TALK, max_tokens=1))[1] == "length"


# --- keys -----------------------------------------------------------------------------------------

KEY = "sk-Geheim+/=.~42"


@needs_encoder
def test_the_key_is_sent_and_said_nowhere(in_context: Store) -> None:
    seen: list[str] = []

    async def repeating(request: Any) -> Any:
        from fastapi.responses import JSONResponse

        sent = request.headers["authorization"]
        seen.append(sent)
        status = 401 if b"Hamlet" in await request.body() else 400
        return JSONResponse({"error": {"message": f"no: {sent}", "type": sent}}, status)

    with answering(repeating) as url:
        program = subprocess.Popen(
            [
                *(sys.executable, "-m", "editcli", "serve", "--port", "0", "--json", "-vv"),
                *("--upstream", url, "--upstream-model", "m"),
            ],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(Path(editcli.__file__).parents[1]), *sys.path]),
                "EDITCLI_UPSTREAM_KEY": KEY,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with program:
            assert program.stdout is not None
            said = json.loads(program.stdout.readline())
            with Server(said["url"], said["model"]).client() as client:
                with pytest.raises(openai.BadRequestError) as refused:
                    complete(client, said["model"], ELSEWHERE)
                with pytest.raises(openai.InternalServerError) as unknown:
                    complete(client, said["model"], HAMLET.prompt)
            program.send_signal(signal.SIGINT)
            out, err = program.communicate(timeout=60)
    assert {*seen} == {f"Bearer {KEY}"}
    assert program.returncode == 0
    assert KEY not in f"{out}{err}{refused.value.response.text}{unknown.value.response.text}"
    assert "no: Bearer ***" in refused.value.message
    assert unknown.value.status_code == 502
    assert "refuses the key in EDITCLI_UPSTREAM_KEY" in unknown.value.message


# --- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--upstream", "127.0.0.1:8000"], "`--upstream` is not an address"),
        (["--upstream", ""], "`--upstream` is not an address"),
        (["--upstream", "http://h:port/v1"], "`--upstream` is not an address"),
        (["--upstream", "http://ann:Geheim@h/v1"], "`--upstream` holds a name or a password"),
        (["--upstream", "http://h/v1", "--batch", "4"], "`--batch` is about answers that are"),
        (["--upstream", "http://h/v1", "--max-new-tokens", "4"], "`--max-new-tokens` is about"),
        (["--upstream-model", "m"], "`--upstream-model` is about an upstream"),
        (["--adapters", "name"], "`--adapters` is about an upstream"),
        (["--upstream-timeout", "5"], "`--upstream-timeout` is about an upstream"),
    ],
)
def test_options_that_do_not_fit_are_named(edited: Store, options: list[str], message: str) -> None:
    result = run("serve", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert "hint: " in result.stderr
    assert "Geheim" not in result.stderr


def test_a_key_that_no_header_holds_is_not_shown(
    edited: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in (f"{KEY} ", f"{KEY}\n", f'"{KEY}"', f"{KEY}é"):
        monkeypatch.setenv("EDITCLI_UPSTREAM_KEY", key)
        result = run("serve", "--upstream", "http://h/v1")
        assert result.exit_code == 2
        assert "the key in EDITCLI_UPSTREAM_KEY holds" in result.stderr
        assert "Geheim" not in result.stderr
