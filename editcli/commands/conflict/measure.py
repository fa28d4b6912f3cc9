"""`editcli conflict measure`: passage or memory, how often each answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from editcli.cli.console import Output
from editcli.cli.context import open_store
from editcli.cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    QuietOption,
    SeedOption,
    SkipBadOption,
    StoreOption,
    VerboseOption,
    VersionOption,
)
from editcli.commands.conflict._options import FileArgument, LimitOption
from editcli.errors import UsageError

if TYPE_CHECKING:
    from editcli.operations.conflict_session import Bench
    from editors.conflicts.cases import Asked, Measured
    from editors.conflicts.uncertainty import Entails, Uncertainty

TEMPERATURE = 0.5


def command(
    file: FileArgument,
    split: Annotated[
        Literal["all", "locate", "dev", "test"], typer.Option("--split", help="Which rows.")
    ] = "all",
    limit: LimitOption = None,
    samples: Annotated[
        int,
        typer.Option(
            "--samples",
            metavar="N",
            min=0,
            help="Also semantic entropy and coherent persuasion, of N sampled answers a row.",
        ),
    ] = 0,
    entailment: Annotated[
        str | None,
        typer.Option(
            "--entailment",
            metavar="MODEL",
            help="With --samples: a classifier (folder or Hub id) that tells which answers are "
            "one; else equal text does.",
        ),
    ] = None,
    per_row: Annotated[bool, typer.Option("--per-row", help="Also each row's outcome.")] = False,
    version: VersionOption = "HEAD",
    skip_bad: SkipBadOption = False,
    seed: SeedOption = 0,
    store: StoreOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Ask each question after its passage: is the answer memory's, the passage's, or another?

    Answers are greedy and free-running; whole words within the first five decide whose they are.
    Rows about an edited fact are judged by four outcomes: edit, context, before (the answer the
    model gave before the edit), other.

    \b
    Examples:
      editcli conflict measure conflicts.jsonl
      editcli conflict measure conflicts.jsonl --split test --version v0002 --json
      editcli conflict measure conflicts.jsonl --limit 50 --samples 10
    """
    from editcli.files.conflicts import read_conflicts
    from editcli.operations.conflict_session import Bench, measured_record
    from editcli.operations.session import Workspace
    from editors.conflicts.cases import measure

    out = Output(json_mode=json, quiet=quiet, verbose=verbose)
    found = read_conflicts(file, skip_bad=skip_bad)
    rows = found.chosen(split, limit)
    if entailment is not None and not samples:
        raise UsageError("--entailment groups sampled answers", "add `--samples 10`")
    opened = open_store(store)
    chosen = opened.version(version)
    workspace = Workspace.open(opened, device=device, dtype=dtype, verbose=verbose)
    entails = None
    if entailment is not None:
        from editcli.models.entailment import entails_by

        entails = entails_by(entailment, device=device, verbose=verbose)
    bench = Bench(workspace, workspace.state(chosen))
    with out.progress("measuring", None, unit="stages") as bar:
        bar.describe("memory's answers")
        asked = bench.ask(rows, out)
        bar.describe("answers after the passages")
        with bench.attached() as edited:
            measured = measure(workspace.base, asked, edited)
    record: dict[str, Any] = {"version": chosen.id, "split": split, **measured_record(measured)}
    if samples:
        uncertain = _uncertainty(bench, asked, samples, entails, seed, out)
        record["uncertainty"] = {
            "samples": samples,
            "temperature": TEMPERATURE,
            "entailment": entailment or "normalised exact match",
            **uncertain,
        }
    if per_row:
        record["per_row"] = [
            {"question": r.asked.row.question, "answer": r.answer, "outcome": _named(r.outcome, r)}
            for r in measured.results
        ]
    if json or quiet:
        out.record(record)
        return
    _print(out, record, measured)


def _named(outcome: str, result: Any) -> str:
    return "edit" if outcome == "memory" and result.asked.fact else outcome


def _uncertainty(
    bench: Bench,
    asked: list[Asked],
    count: int,
    entails: Entails | None,
    seed: int,
    out: Output,
) -> dict[str, Any]:
    from editcli.operations.conflict_session import number
    from editors.conflicts.cases import answer_room
    from editors.conflicts.uncertainty import Uncertainty, same_answer, samples

    base, room = bench.workspace.base, answer_room(bench.workspace.base, asked)
    found: list[Uncertainty] = []
    with bench.attached(), out.progress("sampling", len(asked), unit="rows") as bar:
        for one in asked:
            told, alone, control = (
                samples(base, [prompt], count, room, TEMPERATURE, of)[0]
                for prompt, of in (
                    (one.row.prompt, seed),
                    (one.row.question, seed),
                    (one.row.question, seed + 1),
                )
            )
            found.append(Uncertainty.of(told, alone, control, entails or same_answer))
            bar.advance()

    def mean(values: list[float]) -> float | None:
        return number(sum(values) / len(values))

    return {
        "semantic_entropy": mean([u.semantic_entropy for u in found]),
        "semantic_entropy_told": mean([u.semantic_entropy_told for u in found]),
        "cluster_entropy": mean([u.cluster_entropy for u in found]),
        "cluster_entropy_told": mean([u.cluster_entropy_told for u in found]),
        "coherent_persuasion": mean([u.persuasion.raw for u in found]),
        "coherent_persuasion_control": mean([u.persuasion.control for u in found]),
        "coherent_persuasion_net": mean([u.persuasion.value for u in found]),
    }


def _print(out: Output, record: dict[str, Any], measured: Measured) -> None:
    conflicting = measured.conflicting
    out.text(f"{record['version']}: {len(measured.results)} rows, {record['rows']} conflicting")
    lines = [("all conflicting", conflicting, record)]
    lines += [
        (kind, part, record["by_kind"][kind])
        for kind, part in measured.by(lambda a: a.row.kind).items()
    ]
    lines += [
        (relation, part, record["by_relation"][relation])
        for relation, part in conflicting.by(lambda a: a.row.relation).items()
    ]
    out.table([_line(name, part, told) for name, part, told in lines if part.results], _COLUMNS)
    ratio = record["memorization_ratio"]
    out.text(
        f"memorization ratio {'undefined' if ratio is None else f'{ratio:.3f}'}, "
        f"BCU {record['bcu']:.3f}, CCU {record['ccu']:+.3f}, "
        f"{record['several_named']} answers name both"
    )
    if "edited" in record:
        edited = record["edited"]
        out.text("rows about edited facts, by what the passage says:")
        states = {"all": edited, **edited["by_state"]}
        out.table(
            [
                {"passage": state, **{key: told[key] for key in _FOUR}}
                for state, told in states.items()
            ],
            ["passage", *_FOUR],
        )
        hit = edited["router"]["opened_with_passage"]
        out.text(f"the router opens {hit:.3f} of them with the passage before the question")
    if "uncertainty" in record:
        for name, value in record["uncertainty"].items():
            out.text(f"{name.replace('_', ' ')}: {value}")


_COLUMNS = ["rows", "memory", "context", "other", "n", "95 % memory", "BCU", "CCU"]
_FOUR = ["rows", "edit", "context", "before", "other"]


def _line(name: str, part: Measured, told: dict[str, Any]) -> dict[str, object]:
    rates = part.rates
    return {
        "rows": name,
        "memory": f"{rates.memory.value:.3f}",
        "context": f"{rates.context.value:.3f}",
        "other": f"{rates.other.value:.3f}",
        "n": rates.memory.n,
        "95 % memory": f"{rates.memory.low:.3f}-{rates.memory.high:.3f}",
        "BCU": f"{told['bcu']:.3f}" if "bcu" in told else "",
        "CCU": f"{told['ccu']:+.3f}" if "ccu" in told else "",
    }
