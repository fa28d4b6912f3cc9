"""`editcli push`: a version as a model on the Hub."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

from typer import Argument, Option

from editcli.cli.completion import complete_version
from editcli.cli.options import READS, RUNS_MODEL, VERSION_HELP, Invocation, shared
from editcli.operations.exports.folder import (
    GgufDtypeOption,
    KindOption,
    PrivateFactsOption,
    export,
    require_kind,
)
from editcli.operations.exports.hub import upload


@shared("message", *READS, *RUNS_MODEL)
def command(
    call: Invocation,
    version: Annotated[
        str, Argument(metavar="V", help=VERSION_HELP, autocompletion=complete_version)
    ],
    repository: Annotated[
        str, Argument(metavar="REPO", help="OWNER/NAME on the Hub; made if it does not exist.")
    ],
    kind: KindOption = "adapter",
    private_facts: PrivateFactsOption = False,
    gguf_dtype: GgufDtypeOption = None,
    public: Annotated[
        bool, Option("--public", help="Make a new repository public; without it, it is private.")
    ] = False,
) -> None:
    """Export a version, and upload it to the Hugging Face Hub.

    What is uploaded is what `editcli export` writes. An adapter and a model with remote code
    contain the facts. Log in with `hf auth login`, or set HF_TOKEN; HF_ENDPOINT names another
    server.

    \b
    Examples:
      editcli push HEAD me/edited-model --as remote-code
      editcli push v0003 me/facts --public --private-facts
    """
    require_kind(kind, gguf_dtype)

    from editcli.operations.session import Session
    from editcli.report.model_card import card_of

    store = call.open_store()
    chosen = store.version(version)
    session = Session.open(call, store)
    name = repository.rpartition("/")[2]
    with TemporaryDirectory() as place:
        folder = Path(place) / name
        describe = card_of(session, chosen, kind, repository, private_facts=private_facts)
        export(session, chosen, folder, kind, describe, gguf_dtype=gguf_dtype, for_others=True)
        message = call.message or f"{name}: version {chosen.id}"
        url = upload(folder, repository, message, private=not public)
    call.out.record({"version": chosen.id, "repository": repository, "kind": kind, "url": url})
