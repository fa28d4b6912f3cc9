"""`editcli check`: reliability, generalization and locality of a version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from editcli import exit_codes
from editcli.cli.console import Output
from editcli.cli.invocation import Invocation
from editcli.cli.options import READS, RUNS_MODEL, VersionOption, shared
from editcli.files.facts import read_facts
from editcli.wording import counted
from editors import EditorError, Fact

if TYPE_CHECKING:
    from editors.evaluation.edit_scores import EditScores
    from editors.evaluation.metrics import Rate

SHOWN = 10  # remarks on lines of the file, printed one by one
MEASURED_ON = {
    "reliability": "a prompt",
    "generalization": "`rephrases`",
    "locality": "`locality` prompts",
}

Protocol = Literal["generate", "both"]
Minimum = float | None


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
            "--protocol",
            help="generate: free-running answers alone. both: answers with the gold tokens given "
            "as well.",
        ),
    ] = "both",
    min_reliability: Annotated[
        Minimum,
        typer.Option(
            "--min-reliability",
            metavar="X",
            min=0,
            max=1,
            help="Exit with 3 if reliability is below X.",
        ),
    ] = None,
    min_generalization: Annotated[
        Minimum,
        typer.Option(
            "--min-generalization",
            metavar="X",
            min=0,
            max=1,
            help="Exit with 3 if generalization is below X.",
        ),
    ] = None,
    min_locality: Annotated[
        Minimum,
        typer.Option(
            "--min-locality",
            metavar="X",
            min=0,
            max=1,
            help="Exit with 3 if locality is below X.",
        ),
    ] = None,
    per_fact: Annotated[
        bool, typer.Option("--per-fact", help="Print the scores of each fact, too.")
    ] = False,
) -> None:
    """Score a version: what was edited, and what must not change.

    Reliability is about the edited prompts, generalization about other phrasings of them, locality
    about prompts whose answers must not change. Scores are those of greedy, free-running answers,
    which must stop by themselves. The teacher-forced scores are for comparison with papers. The
    exit code is 3 when a score is below its minimum.

    \b
    Examples:
      editcli check
      editcli check facts.jsonl --version v0003 --json
      editcli check --min-reliability 0.99 --min-locality 0.98
    """
    out = call.out
    fact_file = None
    if file is not None:
        fact_file = read_facts(file)
        fact_file.require()
        for line in fact_file.remarks(SHOWN):
            out.note(line)
    store = call.open_store()
    chosen = store.version(version)
    if fact_file is None and not chosen.facts:
        raise EditorError(
            f"{chosen.id} has no facts to check",
            "`editcli apply FILE` applies some; `editcli check FILE` checks those of a file",
        )

    from editcli.operations.session import Session
    from editors.evaluation.edit_scores import score_edits

    session = Session.open(call, store)
    state = session.state(chosen)
    facts: Sequence[Fact] = state.in_force()
    if fact_file is not None:
        facts = fact_file.refusing(session.why_unfit).require()
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


def _require(out: Output, required: Sequence[tuple[str, Rate, Minimum]]) -> None:
    """Name the scores that are below their minimum, and exit with 3 if there are any."""
    below = False
    for name, rate, minimum in required:
        if minimum is None or rate.value >= minimum:
            continue
        below = True
        if rate.n:
            out.warn(f"{name} {rate.value:.4f} is below {minimum}")
        else:
            out.warn(f"{name} cannot be at least {minimum}: no fact has {MEASURED_ON[name]}")
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
    out.text(f"{version}: {counted(scores.reliability.n, 'fact')}")
    out.table(
        [
            {
                "score": name,
                "value": f"{rate.value:.3f}",
                "95 %": f"{rate.low:.3f}-{rate.high:.3f}",
                "n": rate.n,
                "teacher-forced": f"{forced_rate.value:.3f}" if forced_rate else "",
            }
            for name, rate, forced_rate in rows
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
        "facts": scores.reliability.n,
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
