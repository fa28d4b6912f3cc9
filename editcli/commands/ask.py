"""`editcli ask`: what the model says, and which memory said it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from editcli.cli.console import Output
from editcli.cli.context import open_store
from editcli.cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    QuietOption,
    StoreOption,
    VerboseOption,
    VersionOption,
)

if TYPE_CHECKING:
    from editors.facts import Closed
    from editors.methods.edit_state import EditState
    from editors.model.base_model import Base
    from editors.scope.base import Decision


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
    verbose: VerboseOption = 0,
) -> None:
    """Ask the edited model, and see which memory answered and why.

    \b
    Examples:
      editcli ask "The capital of France is"
      editcli ask "What is the capital of France?" --version v0002
      editcli ask "The capital of France is" --base --json
    """
    from editcli.operations.session import Workspace
    from editors.inference.generation import answers

    out = Output(json_mode=json, quiet=quiet, verbose=verbose)
    opened = open_store(store)
    chosen = opened.version(version)
    workspace = Workspace.open(opened, device=device, dtype=dtype, verbose=verbose)
    text = prompt if context is None else f"{context} {prompt}"
    max_new_tokens = _room(workspace.base, text, max_new_tokens)
    state = None if base else workspace.state(chosen)
    with nullcontext() if state is None else workspace.method.attach(state) as edited:
        answer = answers(workspace.base, [text], max_new_tokens)[0]
        decision = edited.decisions[0] if edited is not None else None
    edited_by = decision if decision is not None and decision.opened else None
    facts = [edited_by.fact] if edited_by and edited_by.fact else []
    near = decision is not None and decision.threshold != float("inf")
    closed = _closed(decision, state) if decision and state else None
    record = {
        "answer": answer.text,
        "memory": "side" if edited_by else "main",
        "shard": edited_by.shard if edited_by else None,
        "activation": round(decision.score, 4) if decision and near else None,
        "threshold": round(decision.threshold, 4) if decision and near else None,
        "facts": facts,
        "closed": closed is not None,
        "yielded": bool(decision and decision.yielded),
        "prefer": state.resolution.prefer if state and state.resolution else None,
    }
    if json:
        out.record(record)
        return
    out.finding(answer.text)
    if not answer.stopped:
        out.note(f"cut after {max_new_tokens} tokens; raise it with `--max-new-tokens`")
    if edited_by:
        claimed = f", fact {facts[0]}" if facts else ""
        out.note(f"side memory, shard {edited_by.shard}{claimed}: {_measured(edited_by)}")
    elif base:
        out.note("the base model, without edits")
    elif decision and decision.yielded:
        out.note(f"main memory: the passage speaks of fact {decision.fact}, and is preferred")
    elif decision and closed:
        out.note(f"main memory: fact {decision.fact}, which this asks for, was {closed.why}")
    elif decision and near:
        out.note(f"main memory: {_measured(decision)}")
    else:
        out.note("main memory: no edit claims this prompt")
    if state is not None and state.resolution is not None:
        resolution = state.resolution
        out.note(
            f"{len(resolution.mask.heads)} heads are pruned, to prefer {resolution.prefer}"
            + (" (ranked with other edits in force)" if state.stale else "")
        )


def _closed(decision: Decision, state: EditState) -> Closed | None:
    """How the fact ended that the prompt asks for, where it no longer answers."""
    asked = decision.fact if decision.score > decision.threshold else None
    return None if asked is None else state.closed.get(asked)


def _measured(decision: Decision) -> str:
    return f"activation {decision.score:.3f}, threshold {decision.threshold:.3f}"


def _room(base: Base, text: str, wanted: int) -> int:
    """How many tokens an answer may have in the model's context, at most `wanted`."""
    from editors import PromptTooLong
    from editors.model.tokenization import encode_prompt

    context, used = base.architecture.context, len(encode_prompt(base.tokenizer, text))
    if context is None:
        return wanted
    if used >= context:
        raise PromptTooLong(
            f"the prompt has {used} tokens, the model takes {context} with the answer",
            "shorten PROMPT or `--context`",
        )
    return min(wanted, context - used)
