"""`editcli ask`: what the model says, and which memory said it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import typer

from editcli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    QuietOption,
    StoreOption,
    VersionOption,
)
from editcli.output import Output


def command(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to ask.")],
    context: Annotated[
        str | None, typer.Option("--context", metavar="TEXT", help="A passage to read first.")
    ] = None,
    version: VersionOption = "HEAD",
    base: Annotated[bool, typer.Option("--base", help="Ask the unedited base model.")] = False,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", min=1, help="Longest answer.")
    ] = 32,
    store: StoreOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Ask the edited model, and see which memory answered and why.

    \b
    Examples:
      editcli ask "The capital of France is"
      editcli ask "What is the capital of France?" --version v0002
      editcli ask "The capital of France is" --base --json
    """
    from editcli.workspace import Workspace
    from editors.generation import answers

    out = Output(json_mode=json, quiet=quiet)
    workspace = Workspace.open(store, device=device, dtype=dtype)
    text = prompt if context is None else f"{context} {prompt}"
    state = None if base else workspace.state(workspace.store.version(version))
    with nullcontext() if state is None else workspace.method.attach(state) as edited:
        answer = answers(workspace.base, [text], max_new_tokens)[0]
        decision = edited.decisions[0] if edited is not None else None
    opened = decision is not None and decision.opened
    facts = [decision.fact] if decision and opened and decision.fact else []
    near = decision is not None and decision.threshold != float("inf")
    record = {
        "answer": answer.text,
        "memory": "side" if opened else "main",
        "shard": decision.shard if decision and opened else None,
        "activation": round(decision.score, 4) if decision and near else None,
        "threshold": round(decision.threshold, 4) if decision and near else None,
        "facts": facts,
    }
    if json:
        out.record(record)
        return
    out.finding(answer.text)
    if not answer.stopped:
        out.note(f"cut after {max_new_tokens} tokens; raise it with `--max-new-tokens`")
    if opened and decision:
        claimed = f", fact {facts[0]}" if facts else ""
        out.note(
            f"side memory, shard {decision.shard}{claimed}: "
            f"{decision.score:.3f} above {decision.threshold:.3f}"
        )
    elif decision and near:
        out.note(f"main memory: {decision.score:.3f} not above {decision.threshold:.3f}")
    else:
        out.note("main memory: no edit claims this prompt")
