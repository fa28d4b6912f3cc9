"""`editcli serve`: a version behind OpenAI's API."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Option

from editcli.cli.options import READS, RUNS_MODEL, Invocation, VersionOption, shared
from editcli.errors import UsageError
from editcli.models.libraries import require

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from editcli.operations.session import Session
    from editcli.serve.catalogue import Catalogue
    from editcli.serve.upstream.client import Upstream

EXTRA = "serve"
LONGEST, ROWS = 512, 32  # an answer in tokens, and the answers of a batch
SILENCE_S = 600.0  # of an upstream


@shared(*READS, *RUNS_MODEL)
def command(
    call: Invocation,
    version: VersionOption = "HEAD",
    host: Annotated[
        str,
        Option(
            metavar="ADDRESS",
            help="The address to listen on. By default only programs on this machine can ask; "
            "there are no keys and no encryption.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, Option(metavar="N", min=0, max=65535, help="The port; 0 takes a free one.")
    ] = 8000,
    reload: Annotated[
        bool,
        Option(
            "--reload",
            help="Serve what --version means at any time: a new version as soon as it is made. "
            "Answers that have begun end on the old one.",
        ),
    ] = False,
    max_new_tokens: Annotated[
        int | None,
        Option(
            metavar="N",
            min=1,
            help="The longest answer in tokens, where a request names none.",
            show_default=str(LONGEST),
        ),
    ] = None,
    batch: Annotated[
        int | None,
        Option(
            metavar="N",
            min=1,
            help="The most answers that are given together.",
            show_default=str(ROWS),
        ),
    ] = None,
    upstream: Annotated[
        str | None,
        Option(
            metavar="URL",
            help="Another engine with OpenAI's API that answers: http://HOST:PORT/v1. No weights "
            "are loaded here: the scope decides, and the engine gets the fact, or the name of its "
            "adapter.",
        ),
    ] = None,
    upstream_model: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="What the upstream calls the base.  [default: the first model that it lists]",
        ),
    ] = None,
    adapters: Annotated[
        Literal["name", "llama.cpp"] | None,
        Option(
            help="How the upstream is told which adapter answers. name: as the model, as in vLLM; "
            "llama.cpp: as a number with a weight.",
            show_default="name",
        ),
    ] = None,
    upstream_timeout: Annotated[
        float | None,
        Option(
            metavar="S",
            min=0.1,
            help="The longest silence of the upstream, in seconds.",
            show_default=f"{SILENCE_S:g}",
        ),
    ] = None,
) -> None:
    """Serve a version of a store behind OpenAI's API.

    GET /v1/models, POST /v1/chat/completions and POST /v1/completions, which may stream; GET
    /metrics for Prometheus. A request names as its model the store (the name of its folder), `base`
    for the unedited base, or any version or tag. Each prompt is routed by itself. Answers say which
    facts gave them: in the header x-editcli-facts and in the field `editcli`.

    Temperature 0 is the default: the answers are those of `ask`, token for token. docs/serving.md
    says what a request may ask, and what is refused. Ctrl-C ends the server.

    With --upstream, another engine answers: vLLM, a server of llama.cpp, a hosted model. Requests
    go there as they came, but for the fact or the adapter of those that a fact claims. The key of
    the upstream, if it wants one, is in the environment variable EDITCLI_UPSTREAM_KEY.

    \b
    Needs: pip install 'editcli[serve]'

    \b
    Examples:
      editcli serve
      editcli serve --version good --port 8080
      editcli serve --reload --host 0.0.0.0
      editcli serve --upstream http://127.0.0.1:8001/v1
    """
    elsewhere = {"model": upstream_model, "adapters": adapters, "timeout": upstream_timeout}
    _require_one_place(upstream, {"max-new-tokens": max_new_tokens, "batch": batch}, elsewhere)
    for package in ("fastapi", "uvicorn", "httpx"):
        require(package, "`editcli serve`", EXTRA)
    from editcli.operations.session import Session
    from editcli.serve.catalogue import Catalogue
    from editcli.serve.listening import is_loopback, listen, url_of
    from editcli.serve.reloading import Reloader
    from editcli.serve.running import serve_until_interrupted
    from editcli.serve.upstream.client import KEY_VARIABLE, Upstream

    engine = upstream is not None and Upstream(
        upstream,
        model=upstream_model,
        timeout=upstream_timeout or SILENCE_S,
        key=os.environ.get(KEY_VARIABLE),
    )
    store, out = call.open_store(), call.out
    store.version(version)
    with listen(host, port) as listener:  # before a large model is loaded, not after
        session = Session.in_front(call, store) if engine else Session.open(call, store)
        catalogue = Catalogue(session, version)
        if not is_loopback(listener):
            out.warn("anybody who reaches this machine can ask the model; there are no keys")
        following = Reloader(store, catalogue, out) if reload else nullcontext()
        answering = (
            _in_front(call, session, catalogue, engine, adapters or "name")
            if engine
            else _here(session, catalogue, batch or ROWS, max_new_tokens or LONGEST)
        )
        with answering as app, following:
            served = {"model": catalogue.name, "version": catalogue.current.id}
            out.record({"url": url_of(listener), **served})
            out.flush()  # a program may wait for the address
            serve_until_interrupted(app, listener, call.verbose)


def _require_one_place(
    upstream: str | None, here: Mapping[str, object], elsewhere: Mapping[str, object]
) -> None:
    """Raise UsageError for an option of answers that are given somewhere else."""
    is_here = upstream is None
    for name in (name for name, value in here.items() if not is_here and value is not None):
        raise UsageError(
            f"`--{name}` is about answers that are given here, and the upstream gives them",
            "leave it out",
        )
    for name in (name for name, value in elsewhere.items() if is_here and value is not None):
        option = name if name == "adapters" else f"upstream-{name}"
        raise UsageError(f"`--{option}` is about an upstream", "name it: `--upstream URL`")


@contextmanager
def _here(session: Session, catalogue: Catalogue, rows: int, longest: int) -> Iterator[ASGIApp]:
    """The application that answers with the model of ``session``."""
    from editcli.serve.app import make_app
    from editcli.serve.engine import Engine

    with Engine(session, rows) as engine:
        yield make_app(engine, catalogue, longest)


@contextmanager
def _in_front(
    call: Invocation, session: Session, catalogue: Catalogue, upstream: Upstream, naming: str
) -> Iterator[ASGIApp]:
    """The application that has ``upstream`` answer."""
    from editcli.serve.upstream.adapters import NAMINGS
    from editcli.serve.upstream.deciding import Deciding
    from editcli.serve.upstream.front import make_front

    yield make_front(Deciding(session), catalogue, upstream, NAMINGS[naming](upstream), call.out)
