"""`editcli conflict`: which to believe, the passage or the model's memory."""

from __future__ import annotations

import typer

from editcli.commands.conflict import locate, measure, resolve

group = typer.Typer(no_args_is_help=True)


@group.callback()
def conflict() -> None:
    """Measure, locate and resolve conflicts between passage and memory.

    A conflict file holds one JSON object a line; question, context and context_answer are
    required. Optional are memory_answer (else the model is asked), relation, subject, kind
    (substitution, coherent, irrelevant or gold) and split (locate, dev or test).

    \b
    Examples:
      editcli conflict measure conflicts.jsonl
      editcli conflict locate conflicts.jsonl
      editcli conflict resolve conflicts.jsonl --prefer memory
    """


group.command("measure")(measure.command)
group.command("locate")(locate.command)
group.command("resolve")(resolve.command)
