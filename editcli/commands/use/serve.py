"""`editcli serve`: a version behind OpenAI's API."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

from typer import Option

from editcli.cli.options import READS, RUNS_MODEL, Invocation, VersionOption, shared
from editcli.models.libraries import require

EXTRA = "serve"


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
        int,
        Option(
            metavar="N",
            min=1,
            help="The longest answer in tokens, where a request names none.",
        ),
    ] = 512,
    batch: Annotated[
        int, Option(metavar="N", min=1, help="The most answers that are given together.")
    ] = 32,
) -> None:
    """Serve a version of a store behind OpenAI's API.

    GET /v1/models, POST /v1/chat/completions and POST /v1/completions, which may stream; GET
    /metrics for Prometheus. A request names as its model the store (the name of its folder), `base`
    for the unedited base, or any version or tag. Each prompt is routed by itself. Answers say which
    facts gave them: in the header x-editcli-facts and in the field `editcli`.

    Temperature 0 is the default: the answers are those of `ask`, token for token. docs/serving.md
    says what a request may ask, and what is refused. Ctrl-C ends the server.

    \b
    Needs: pip install 'editcli[serve]'

    \b
    Examples:
      editcli serve
      editcli serve --version good --port 8080
      editcli serve --reload --host 0.0.0.0
    """
    for package in ("fastapi", "uvicorn"):
        require(package, "`editcli serve`", EXTRA)
    from editcli.operations.session import Session
    from editcli.serve.app import make_app
    from editcli.serve.catalogue import Catalogue
    from editcli.serve.engine import Engine
    from editcli.serve.listening import is_loopback, listen, url_of
    from editcli.serve.reloading import Reloader
    from editcli.serve.running import serve_until_interrupted

    store, out = call.open_store(), call.out
    store.version(version)
    with listen(host, port) as listener:  # before a large model is loaded, not after
        session = Session.open(call, store)
        catalogue = Catalogue(session, version)
        if not is_loopback(listener):
            out.warn("anybody who reaches this machine can ask the model; there are no keys")
        following = Reloader(store, catalogue, out) if reload else nullcontext()
        with Engine(session, batch) as engine, following:
            app = make_app(engine, catalogue, max_new_tokens)
            served = {"model": catalogue.name, "version": catalogue.current.id}
            out.record({"url": url_of(listener), **served})
            out.flush()  # a program may wait for the address
            serve_until_interrupted(app, listener, call.verbose)
