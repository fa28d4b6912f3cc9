"""Servers over stores on a tiny model, on a free port of this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any

from tiny_stores import run

from editcli.cli.options import Invocation
from editcli.store.store import Store

if TYPE_CHECKING:
    from openai import OpenAI

TOKENS = 12  # of the answers that are compared

Prompt = str | Sequence[dict[str, str]]


@dataclass(frozen=True)
class Server:
    """A server that runs, with the name of its store."""

    url: str
    name: str

    def client(self) -> OpenAI:
        """The real client; it tries nothing twice, so that every failure is seen."""
        from openai import OpenAI

        return OpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=60)


@contextmanager
def serving(store: Store, version: str = "HEAD", *, reload: bool = False) -> Iterator[Server]:
    """The server of `editcli serve`, in threads of this process."""
    import uvicorn

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
    with listen("127.0.0.1", 0) as listener, Engine(session, 32) as engine, following:
        app = make_app(engine, catalogue, 64)
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning"))
        thread = Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield Server(url_of(listener), catalogue.name)
        finally:
            server.should_exit = True
            thread.join()


def asked(prompts: Sequence[Prompt], *options: str) -> list[dict[str, Any]]:
    """What `editcli ask` answers to texts and chats, as records without the number of the line."""
    lines = [prompt if isinstance(prompt, str) else json.dumps(prompt) for prompt in prompts]
    words = ["ask", "-", "--json", "--max-new-tokens", str(TOKENS), *options]
    result = run(*words, stdin="".join(f"{line}\n" for line in lines))
    assert result.exit_code == 0, result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record.pop("line") for record in records] == [*range(1, len(prompts) + 1)]
    return records
