"""`editcli export`: a version as a folder that other programs load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument

from editcli.cli.completion import complete_version
from editcli.cli.options import READS, RUNS_MODEL, VERSION_HELP, Invocation, shared
from editcli.operations.exports.folder import (
    GgufDtypeOption,
    KindOption,
    PrivateFactsOption,
    export,
    require_kind,
)


@shared(*READS, *RUNS_MODEL)
def command(
    call: Invocation,
    version: Annotated[
        str, Argument(metavar="V", help=VERSION_HELP, autocompletion=complete_version)
    ],
    folder: Annotated[
        Path, Argument(metavar="FOLDER", help="Where to write; it must not exist yet.")
    ],
    kind: KindOption = "adapter",
    private_facts: PrivateFactsOption = False,
    gguf_dtype: GgufDtypeOption = None,
) -> None:
    """Write a version as a folder that other programs load, with a model card.

    An adapter and a model with remote code answer as `ask` does, token for token. Any program that
    uses transformers loads the latter: `from_pretrained(FOLDER, trust_remote_code=True)`. The
    base's weights are linked, not copied, where the file system allows it. An adapter and a model
    with remote code contain the facts, which tell which prompts to answer.

    Plain weights need no code at all. They are exact for edits that are always on, such as those of
    ft-m, and for pruned heads. Routed edits are merged into one change of the weights, which also
    changes other answers; what that costs is measured, printed, and written into the card.

    A GGUF file holds plain weights and the tokenizer, for llama.cpp and programs on it. It is read
    back before it appears: a model or a tokenizer that the file cannot hold is refused.

    With `--as lora`, other engines can answer: `adapters.json` names the adapter of each fact, and
    whoever asks gives each prompt the adapter of the fact that claims it, or none.

    \b
    Examples:
      editcli export HEAD edits
      editcli export v0003 edited-model --as remote-code
      editcli export HEAD plain-model --as merged --private-facts
      editcli export HEAD for-llama-cpp --as gguf --gguf-dtype float16
      editcli export HEAD adapters --as lora
    """
    require_kind(kind, gguf_dtype)

    from editcli.operations.session import Session
    from editcli.report.model_card import card_of, score_rows

    store = call.open_store()
    chosen = store.version(version)
    session = Session.open(call, store)
    describe = card_of(session, chosen, kind, folder.name, private_facts=private_facts)
    rows = score_rows(export(session, chosen, folder, kind, describe, gguf_dtype=gguf_dtype))
    call.out.record({"version": chosen.id, "path": str(folder), "kind": kind})
    for name, reliability, generalization, near, far in rows:
        call.out.note(
            f"{name}: reliability {reliability}, generalization {generalization}, "
            f"near locality {near}, far locality {far}"
        )
    if rows:
        call.out.warn("merged edits also change other answers", "the model card has the scores")
