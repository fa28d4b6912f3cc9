"""`editcli facts`: check and tidy fact files, without a store or a model."""

from __future__ import annotations

import typer

from editcli import exit_codes
from editcli.cli.invocation import Invocation, counted
from editcli.cli.options import (
    PRINTS,
    FactFileArgument,
    OnConflictOption,
    SkipBadOption,
    shared,
)
from editcli.files.consistency import Replaced
from editcli.files.facts import FactFile, read_facts

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
    call: Invocation, file: FactFileArgument, on_conflict: OnConflictOption = "refuse"
) -> None:
    """Check every line of a fact file and name all that is wrong.

    The exit code is 4 when lines are refused, and 2 when the file cannot be read at all.

    \b
    Examples:
      editcli facts validate facts.jsonl
      cat monday.jsonl tuesday.jsonl | editcli facts validate -
      editcli facts validate facts.jsonl --json
    """
    out = call.out
    found = read_facts(file, on_conflict=on_conflict)
    if call.json:
        out.record(_summary(found))
    else:
        for finding in found.findings():
            out.finding(finding)
        for line in found.remarks():
            out.note(line)
        out.text(
            f"{_are(len(found.facts), 'fact')} fine, "
            f"{_are(len(found.refused), 'line')} refused, "
            f"{_are(len(found.duplicates), 'line')} left out as repeated"
        )
    if found.refused:
        if not call.json:
            out.hint(found.hint())
        raise typer.Exit(exit_codes.SOME_REFUSED)


@group.command()
@shared(*PRINTS)
def dedupe(
    call: Invocation,
    file: FactFileArgument,
    on_conflict: OnConflictOption = "refuse",
    skip_bad: SkipBadOption = False,
) -> None:
    """Print each fact once, as JSON Lines, with or without --json.

    \b
    Examples:
      editcli facts dedupe facts.jsonl > tidy.jsonl
      editcli facts dedupe facts.jsonl --on-conflict newest > tidy.jsonl
      cat *.jsonl | editcli facts dedupe - --skip-bad | editcli apply -
    """
    out = call.out
    found = read_facts(file, on_conflict=on_conflict)
    for fact in found.require(skip_bad=skip_bad):
        out.json_line(fact.to_dict())
    for finding in found.findings():
        out.warn(f"left out {finding}")
    for line in found.remarks():
        out.note(line)
    if found.refused:
        raise typer.Exit(exit_codes.SOME_REFUSED)


def _are(number: int, noun: str) -> str:
    return f"{counted(number, noun)} {'is' if number == 1 else 'are'}"


def _summary(found: FactFile) -> dict[str, object]:
    return {
        "file": found.name,
        "facts": len(found.facts),
        "refused": [{"line": bad.line, "reason": bad.reason} for bad in found.refused],
        "duplicates": [_replaced(entry) for entry in found.duplicates],
        "superseded": [_replaced(entry) for entry in found.superseded],
    }


def _replaced(entry: Replaced) -> dict[str, object]:
    return {"line": entry.line, "by": entry.by, "id": entry.id}
