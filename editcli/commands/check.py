"""`editcli check`: reliability, generalization and locality of a version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
from editors import EditorError, Fact

if TYPE_CHECKING:
    from editors.evaluation.edit_scores import Scores
    from editors.evaluation.metrics import Rate

BELOW = 3
SHOWN = 10  # lines remarked on one by one
NOTHING = "`editcli apply FILE`, or name a file to check"
MEASURED_ON = {
    "reliability": "a prompt",
    "generalization": "`rephrases`",
    "locality": "`locality` prompts",
}

Protocol = Literal["generate", "teacher-forced", "both"]


def command(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]", help="A fact file, or - for standard input; else the version's facts."
        ),
    ] = None,
    version: VersionOption = "HEAD",
    protocol: Annotated[
        Protocol,
        typer.Option("--protocol", help="Free-running answers, gold tokens given, or both."),
    ] = "both",
    min_reliability: Annotated[
        float | None,
        typer.Option("--min-reliability", metavar="X", min=0, max=1, help="Else exit 3."),
    ] = None,
    min_generalization: Annotated[
        float | None,
        typer.Option("--min-generalization", metavar="X", min=0, max=1, help="Else exit 3."),
    ] = None,
    min_locality: Annotated[
        float | None, typer.Option("--min-locality", metavar="X", min=0, max=1, help="Else exit 3.")
    ] = None,
    per_fact: Annotated[bool, typer.Option("--per-fact", help="Also each fact's outcome.")] = False,
    store: StoreOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Score a version: what was asked for, other phrasings of it, and all that must not change.

    Free-running greedy answers that stop by themselves are the headline. Exits with 3 when a score
    lies below its --min.

    \b
    Examples:
      editcli check
      editcli check facts.jsonl --version v0003 --json
      editcli check --min-reliability 0.99 --min-locality 0.98
    """
    from editcli.operations.session import Workspace
    from editors.evaluation.edit_scores import check

    out = Output(json_mode=json, quiet=quiet, verbose=verbose)
    found = None
    if file is not None:
        from editcli.files.facts import read_facts

        found = read_facts(file)
        found.require()
        for line in found.remarks(SHOWN):
            out.note(line)
    opened = open_store(store)
    chosen = opened.version(version)
    if found is None and not chosen.facts:
        raise EditorError(f"{chosen.id} has no facts to check", NOTHING)
    workspace = Workspace.open(opened, device=device, dtype=dtype, verbose=verbose)
    state = workspace.state(chosen)
    asked: Sequence[Fact] = state.in_force()
    if found is not None:
        asked = found.refusing(workspace.unfit).require()
    with out.progress("checking", None, unit="stages") as bar:
        scores = check(
            workspace.base,
            lambda: workspace.method.attach(state),
            asked,
            teacher_forced=protocol != "generate",
            on_stage=bar.describe,
        )
    if json or quiet:
        out.record(_record(chosen.id, protocol, scores, per_fact=per_fact))
    else:
        _print(out, chosen.id, scores, protocol)
        if per_fact:
            out.table(
                [
                    {
                        "fact": s.id,
                        "reliable": "yes" if s.reliable else "NO",
                        "rephrases": f"{sum(s.rephrases)}/{len(s.rephrases)}",
                        "near": f"{sum(s.near)}/{len(s.near)}",
                        "far": f"{sum(s.far)}/{len(s.far)}",
                        "answer": s.answer,
                    }
                    for s in scores.per_fact
                ],
                ["fact", "reliable", "rephrases", "near", "far", "answer"],
            )
    below = [
        (name, rate.value, least)
        for name, rate, least in (
            ("reliability", scores.reliability, min_reliability),
            ("generalization", scores.generalization, min_generalization),
            ("locality", scores.locality, min_locality),
        )
        if least is not None
        and not rate.value >= least  # NaN, where nothing was measured, is below
    ]
    for name, value, least in below:
        if value == value:
            out.warn(f"{name} {value:.4f} is below {least}")
        else:
            out.warn(f"{name} cannot be at least {least}: no fact has {MEASURED_ON[name]}")
    if below:
        raise typer.Exit(BELOW)


def _print(out: Output, version: str, scores: Scores, protocol: Protocol) -> None:
    forced = scores.teacher_forced
    rows: list[tuple[str, Rate, Rate | None]] = [
        ("reliability", scores.reliability, forced.reliability if forced else None),
        ("generalization", scores.generalization, forced.generalization if forced else None),
        ("locality, near", scores.near, None),
        ("locality, far", scores.far, None),
        ("locality, all", scores.locality, forced.locality if forced else None),
        ("portability", scores.portability, None),
        ("still the old answer", scores.old_answers, None),
        ("bit-identical logits", scores.identical, None),
        ("routed right, in scope", scores.opened_in_scope, None),
        ("opened, out of scope", scores.opened_out_of_scope, None),
    ]
    out.text(f"{version}: {scores.facts} fact{'s' * (scores.facts != 1)}")
    out.table(
        [
            {
                "score": name,
                "value": f"{rate.value:.3f}",
                "95 %": f"{rate.low:.3f}-{rate.high:.3f}",
                "n": rate.n,
                "teacher-forced": f"{other.value:.3f}" if other else "",
            }
            for name, rate, other in rows
            if rate.n
        ],
        ["score", "value", "95 %", "n", "teacher-forced"],
    )
    if len(scores.retention) > 1:
        kept = " ".join(f"{band.reliability:.2f}" for band in scores.retention)
        out.text(f"retention, newest first: {kept}")


def _number(rate: Rate) -> float | None:
    return round(rate.value, 6) if rate.n else None


def _record(
    version: str, protocol: Protocol, scores: Scores, *, per_fact: bool
) -> dict[str, object]:
    rates: dict[str, Rate] = {
        "reliability": scores.reliability,
        "generalization": scores.generalization,
        "locality_near": scores.near,
        "locality_far": scores.far,
        "locality": scores.locality,
        "portability": scores.portability,
        "old_answers": scores.old_answers,
        "identical": scores.identical,
        "opened_in_scope": scores.opened_in_scope,
        "opened_out_of_scope": scores.opened_out_of_scope,
    }
    record: dict[str, Any] = {
        "version": version,
        "facts": scores.facts,
        "protocol": protocol,
        "reliability": _number(scores.reliability),
        "generalization": _number(scores.generalization),
        "locality": {
            "near": _number(scores.near),
            "far": _number(scores.far),
            "all": _number(scores.locality),
            "identical": _number(scores.identical),
        },
        "portability": _number(scores.portability),
        "old_answers": _number(scores.old_answers),
        "routing": {
            "opened_in_scope": _number(scores.opened_in_scope),
            "opened_out_of_scope": _number(scores.opened_out_of_scope),
        },
        "ci95": {name: [round(r.low, 6), round(r.high, 6)] for name, r in rates.items() if r.n},
        "n": {name: r.n for name, r in rates.items() if r.n},
        "retention": [
            {"age": [band.newer, band.older], "reliability": round(band.reliability, 6)}
            for band in scores.retention
        ],
    }
    if scores.teacher_forced is not None:
        record["teacher_forced"] = {
            "reliability": _number(scores.teacher_forced.reliability),
            "generalization": _number(scores.teacher_forced.generalization),
            "locality": _number(scores.teacher_forced.locality),
        }
    if per_fact:
        record["per_fact"] = [asdict(score) for score in scores.per_fact]
    return record
