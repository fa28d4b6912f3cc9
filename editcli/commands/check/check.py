"""`editcli check`: reliability, generalization and locality of a version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from editcli import exit_codes
from editcli.cli.console import Output
from editcli.cli.invocation import Invocation, counted
from editcli.cli.options import READS, RUNS_MODEL, VersionOption, shared
from editcli.files.facts import read_facts
from editors import EditorError, Fact

if TYPE_CHECKING:
    from editors.evaluation.edit_scores import EditScores
    from editors.evaluation.metrics import Rate

SHOWN = 10  # lines remarked on one by one
MEASURED_ON = {
    "reliability": "a prompt",
    "generalization": "`rephrases`",
    "locality": "`locality` prompts",
}

Protocol = Literal["generate", "teacher-forced", "both"]
Least = float | None


@shared(*READS, *RUNS_MODEL)
def command(
    call: Invocation,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="A fact file, or - for standard input; without it, the facts of the version.",
        ),
    ] = None,
    version: VersionOption = "HEAD",
    protocol: Annotated[
        Protocol,
        typer.Option(
            "--protocol", help="Free-running answers, answers with gold tokens given, or both."
        ),
    ] = "both",
    min_reliability: Annotated[
        Least, typer.Option("--min-reliability", metavar="X", min=0, max=1, help="Else exit 3.")
    ] = None,
    min_generalization: Annotated[
        Least, typer.Option("--min-generalization", metavar="X", min=0, max=1, help="Else exit 3.")
    ] = None,
    min_locality: Annotated[
        Least, typer.Option("--min-locality", metavar="X", min=0, max=1, help="Else exit 3.")
    ] = None,
    per_fact: Annotated[
        bool, typer.Option("--per-fact", help="Print how each fact did, too.")
    ] = False,
) -> None:
    """Score a version: what was edited, and what must not change.

    Reliability is about the edited prompts, generalization about other phrasings of them, locality
    about prompts that must not change. The headline is greedy, free-running answers that stop by
    themselves. The exit code is 3 when a score lies below its --min.

    \b
    Examples:
      editcli check
      editcli check facts.jsonl --version v0003 --json
      editcli check --min-reliability 0.99 --min-locality 0.98
    """
    out = call.out
    found = None
    if file is not None:
        found = read_facts(file)
        found.require()
        for line in found.remarks(SHOWN):
            out.note(line)
    store = call.open_store()
    chosen = store.version(version)
    if found is None and not chosen.facts:
        raise EditorError(
            f"{chosen.id} has no facts to check", "`editcli apply FILE`, or name a file to check"
        )

    from editcli.operations.session import Session
    from editors.evaluation.edit_scores import score_edits

    session = Session.open(call, store)
    state = session.state(chosen)
    facts: Sequence[Fact] = state.in_force()
    if found is not None:
        facts = found.refusing(session.why_unfit).require()
    with out.progress("checking", None, unit="stages") as bar:
        scores = score_edits(
            session.base,
            lambda: session.method.attach(state),
            facts,
            teacher_forced=protocol != "generate",
            on_stage=bar.describe,
        )
    if call.json or call.quiet:
        out.record(_record(chosen.id, protocol, scores, per_fact=per_fact))
    else:
        _print(out, chosen.id, scores, per_fact=per_fact)
    _require(
        out,
        [
            ("reliability", scores.reliability, min_reliability),
            ("generalization", scores.generalization, min_generalization),
            ("locality", scores.locality, min_locality),
        ],
    )


def _require(out: Output, wanted: Sequence[tuple[str, Rate, Least]]) -> None:
    """Name the scores that are lower than wanted, and exit with 3 if there are any."""
    below = False
    for name, rate, least in wanted:
        if least is None or rate.value >= least:
            continue
        below = True
        if rate.n:
            out.warn(f"{name} {rate.value:.4f} is below {least}")
        else:
            out.warn(f"{name} cannot be at least {least}: no fact has {MEASURED_ON[name]}")
    if below:
        raise typer.Exit(exit_codes.BELOW_THRESHOLD)


def _print(out: Output, version: str, scores: EditScores, *, per_fact: bool) -> None:
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
    out.text(f"{version}: {counted(scores.facts, 'fact')}")
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
        by_age = " ".join(f"{band.reliability:.2f}" for band in scores.retention)
        out.text(f"retention, newest first: {by_age}")
    if per_fact:
        out.table(
            [
                {
                    "fact": score.id,
                    "reliable": "yes" if score.reliable else "NO",
                    "rephrases": f"{sum(score.rephrases)}/{len(score.rephrases)}",
                    "near": f"{sum(score.near)}/{len(score.near)}",
                    "far": f"{sum(score.far)}/{len(score.far)}",
                    "answer": score.answer,
                }
                for score in scores.per_fact
            ],
            ["fact", "reliable", "rephrases", "near", "far", "answer"],
        )


def _record(
    version: str, protocol: Protocol, scores: EditScores, *, per_fact: bool
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
    values = {name: round(rate.value, 6) if rate.n else None for name, rate in rates.items()}
    record: dict[str, Any] = {
        "version": version,
        "facts": scores.facts,
        "protocol": protocol,
        "reliability": values["reliability"],
        "generalization": values["generalization"],
        "locality": {
            "near": values["locality_near"],
            "far": values["locality_far"],
            "all": values["locality"],
            "identical": values["identical"],
        },
        "portability": values["portability"],
        "old_answers": values["old_answers"],
        "routing": {
            "opened_in_scope": values["opened_in_scope"],
            "opened_out_of_scope": values["opened_out_of_scope"],
        },
        "ci95": {name: [round(r.low, 6), round(r.high, 6)] for name, r in rates.items() if r.n},
        "n": {name: rate.n for name, rate in rates.items() if rate.n},
        "retention": [
            {"age": [band.newer, band.older], "reliability": round(band.reliability, 6)}
            for band in scores.retention
        ],
    }
    if forced := scores.teacher_forced:
        record["teacher_forced"] = {
            name: round(rate.value, 6) if rate.n else None
            for name, rate in (
                ("reliability", forced.reliability),
                ("generalization", forced.generalization),
                ("locality", forced.locality),
            )
        }
    if per_fact:
        record["per_fact"] = [asdict(score) for score in scores.per_fact]
    return record
