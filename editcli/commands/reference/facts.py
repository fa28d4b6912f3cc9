"""`editcli facts`: check and tidy fact files, without a store or a model."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from typer import Exit

from editcli import exit_codes
from editcli.cli import options
from editcli.cli.options import PRINTS, Invocation, shared
from editcli.files.consistency import Replaced
from editcli.files.facts import FactFile, read_facts
from editcli.wording import counted_are

group = typer.Typer(no_args_is_help=True)


@group.callback()
def facts() -> None:
    """Check and tidy fact files.

    A fact file holds one JSON object a line; prompt and target are required.

    \b
    Examples:
      echo '{"prompt": "The capital of France is", "target": "Lyon"}' > facts.jsonl
      editcli facts validate facts.jsonl
      editcli facts dedupe facts.jsonl > tidy.jsonl
    """


@group.command()
@shared(*PRINTS)
def validate(
    call: Invocation,
    file: options.FactFileArgument,
    on_conflict: options.OnConflictOption = "refuse",
) -> None:
    """Check every line of a fact file and name everything that is wrong.

    The exit code is 4 when lines are refused, and 2 when the file cannot be read at all.

    \b
    Examples:
      editcli facts validate facts.jsonl
      cat monday.jsonl tuesday.jsonl | editcli facts validate -
      editcli facts validate facts.jsonl --json
    """
    out = call.out
    fact_file = read_facts(file, on_conflict=on_conflict)
    if call.json:
        out.record(_summary(fact_file))
    else:
        out.finding(*fact_file.findings())
        out.note(*fact_file.remarks())
        out.text(
            f"{counted_are(len(fact_file.facts), 'fact')} fine, "
            f"{counted_are(len(fact_file.refused), 'line')} refused, "
            f"{counted_are(len(fact_file.duplicates), 'line')} left out as repeated"
        )
    if fact_file.refused:
        if not call.json:
            out.hint(fact_file.hint())
        raise Exit(exit_codes.SOME_REFUSED)


@group.command()
@shared(*PRINTS)
def dedupe(
    call: Invocation,
    file: options.FactFileArgument,
    on_conflict: options.OnConflictOption = "refuse",
    skip_bad: options.SkipBadOption = False,
) -> None:
    """Print each fact once, as JSON Lines, with or without --json.

    \b
    Examples:
      editcli facts dedupe facts.jsonl > tidy.jsonl
      editcli facts dedupe facts.jsonl --on-conflict newest > tidy.jsonl
      cat *.jsonl | editcli facts dedupe - --skip-bad | editcli apply -
    """
    out = call.out
    fact_file = read_facts(file, on_conflict=on_conflict)
    for fact in fact_file.require(skip_bad=skip_bad):
        out.json_line(fact.to_dict())
    for finding in fact_file.findings():
        out.warn(f"left out {finding}")
    out.note(*fact_file.remarks())
    if fact_file.refused:
        raise Exit(exit_codes.SOME_REFUSED)


def _summary(fact_file: FactFile) -> dict[str, object]:
    def lines(entries: Sequence[Replaced]) -> list[dict[str, object]]:
        return [{"line": entry.line, "by": entry.by, "id": entry.id} for entry in entries]

    return {
        "file": fact_file.name,
        "facts": len(fact_file.facts),
        "refused": [{"line": bad.line, "reason": bad.reason} for bad in fact_file.refused],
        "duplicates": lines(fact_file.duplicates),
        "superseded": lines(fact_file.superseded),
    }
