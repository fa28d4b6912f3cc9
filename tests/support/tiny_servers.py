"""Servers over stores on a tiny model, on a free port of this machine."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from tiny_stores import run

from editcli.cli.options import Invocation
from editcli.store.store import Store

if TYPE_CHECKING:
    from openai import OpenAI

TOKENS = 12  # of the answers that are compared
TALK, LONG = "the sea of Kenya is", 30_000  # a question, and the tokens of its answer

Prompt = str | Sequence[dict[str, str]]


@dataclass(frozen=True)
class Server:
    """A server that runs, with the name of its store."""

    url: str
    name: str

    def client(self) -> OpenAI:
        """The real client; it tries nothing twice, so that every failure is seen."""
        from openai import OpenAI

        return OpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=600)


@contextmanager
def in_thread(app: Any, listener: socket.socket) -> Iterator[None]:
    """Inside `with`, `app` answers on `listener`, in a thread of this process."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_level="warning"))
    thread = Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def serving(
    store: Store, version: str = "HEAD", *, reload: bool = False, port: int = 0
) -> Iterator[Server]:
    """The server of `editcli serve`, in threads of this process."""
    from editcli.operations.session import Session
    from editcli.serve.app import make_app
    from editcli.serve.catalogue import Catalogue
    from editcli.serve.engine import Engine
    from editcli.serve.listening import listen, url_of
    from editcli.serve.reloading import Reloader

    call = Invocation(store=store.path, device="cpu")
    session = Session.open(call, store)
    catalogue = Catalogue(session, version)
    following = Reloader(store, catalogue, call.out) if reload else nullcontext()
    with (
        listen("127.0.0.1", port) as listener,
        Engine(session, 32) as engine,
        following,
        in_thread(make_app(engine, catalogue, 64), listener),
    ):
        yield Server(url_of(listener), catalogue.name)


def asked(prompts: Sequence[Prompt], *options: str) -> list[dict[str, Any]]:
    """What `editcli ask` answers to texts and chats, as records without the number of the line."""
    lines = [prompt if isinstance(prompt, str) else json.dumps(prompt) for prompt in prompts]
    words = ["ask", "-", "--json", "--max-new-tokens", str(TOKENS), *options]
    result = run(*words, stdin="".join(f"{line}\n" for line in lines))
    assert result.exit_code == 0, result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record.pop("line") for record in records] == [*range(1, len(prompts) + 1)]
    return records


def complete(client: Any, model: str, prompt: Prompt, **options: Any) -> Any:
    """The raw response of the endpoint that `prompt` is for."""
    options = {"model": model, "max_tokens": TOKENS, **options}
    if isinstance(prompt, str):
        return client.completions.with_raw_response.create(prompt=prompt, **options)
    return client.chat.completions.with_raw_response.create(messages=prompt, **options)


def read(response: Any) -> tuple[str, str, Any]:
    """The text of the first choice, why it ended, and the decision on the prompt; of a stream,
    too."""
    parsed = response.parse()
    if hasattr(parsed, "choices"):
        [choice] = parsed.choices
        text = choice.text if hasattr(choice, "text") else choice.message.content
        return text, choice.finish_reason, parsed.editcli["decisions"][0]
    text, reason, decision = "", None, None
    for chunk in parsed:
        decision = decision or chunk.editcli["decisions"][0]
        for choice in chunk.choices:
            text += (choice.text if hasattr(choice, "text") else choice.delta.content) or ""
            reason = choice.finish_reason or reason
    return text, str(reason), decision


def require_answers_of_ask(client: Any, asks: list[tuple[str, Prompt, bool]], at_once: int) -> None:
    """Ask all of these models and prompts, streamed or not, and compare with `editcli ask`."""
    expected: dict[tuple[str, str], dict[str, Any]] = {}
    for model in {model for model, _, _ in asks}:
        prompts = {json.dumps(prompt): prompt for name, prompt, _ in asks if name == model}
        version = ["--base"] if model == "base" else ["--version", model]
        records = asked([*prompts.values()], *version)
        expected |= {(model, key): record for key, record in zip(prompts, records, strict=True)}

    def answer(ask: tuple[str, Prompt, bool]) -> tuple[str, str, Any, Any]:
        model, prompt, stream = ask
        response = complete(client, model, prompt, stream=stream)
        return (*read(response), response.headers)

    with ThreadPoolExecutor(at_once) as threads:
        found = [*threads.map(answer, asks)]
    edited = {decision["edited"] for _, _, decision, _ in found}
    assert len(edited) > 1, "some prompts have to be claimed, and some not"
    for (model, prompt, _), (text, reason, decision, headers) in zip(asks, found, strict=True):
        record = dict(expected[model, json.dumps(prompt)])
        assert record.pop("schema") == 2
        assert text == record.pop("answer"), (model, prompt)
        for key in ("score", "threshold"):  # sums of floats: the last digit depends on the batch
            record[key] = record[key] and pytest.approx(record[key], abs=2e-4)
        assert decision == record
        assert headers["x-editcli-facts"] == (record["fact"] or "")
        assert reason in ("stop", "length")


def shuffled(
    models: list[str], prompts: list[Prompt], count: int
) -> list[tuple[str, Prompt, bool]]:
    """`count` requests over all of these, in an order that is the same each time."""
    each = [(model, p, stream) for model in models for p in prompts for stream in (False, True)]
    drawn = random.Random(0)
    return [drawn.choice(each) for _ in range(count)]
