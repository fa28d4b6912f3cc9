"""`editcli check`: reliability, generalization and locality of a version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Exit, Option

from editcli import exit_codes
from editcli.cli.console import Output
from editcli.cli.options import READS, RUNS_MODEL, Invocation, VersionOption, shared
from editcli.files.facts import read_facts
from editcli.wording import counted
from editors import EditorError, Fact
from editors.facts import NEAR_KINDS

if TYPE_CHECKING:
    from editors.evaluation.edit_scores import EditScores
    from editors.evaluation.metrics import Rate

SHOWN = 10  # remarks on lines of the file, printed one by one

# The scores in the order of printing: the key in JSON, and what a person reads.
RATES = {
    "reliability": "reliability",
    "generalization": "generalization",
    "locality_near": "locality, near",
    **{f"locality_{kind}": f"near, {kind}" for kind in NEAR_KINDS},
    "locality_far": "locality, far",
    "locality": "locality, all",
    "portability": "portability",
    "old_answers": "still the old answer",
    "identical": "bit-identical logits",
    "opened_in_scope": "routed right, in scope",
    "opened_out_of_scope": "opened, out of scope",
}
# The scores that may have a minimum, and the part of a fact that each is measured on.
MEASURED_ON = {
    "reliability": "a prompt",
    "generalization": "`rephrases`",
    "locality": "`locality` prompts",
}

Protocol = Literal["generate", "both"]


def _minimum(score: str) -> Any:
    return Option(metavar="X", min=0, max=1, help=f"Exit with 3 if {score} is below X.")


@shared(*READS, *RUNS_MODEL)
def command(
    call: Invocation,
    file: Annotated[
        str | None,
        Argument(
            metavar="[FILE]",
            help="A fact file, or - for standard input; without it, the facts of the version.",
        ),
    ] = None,
    version: VersionOption = "HEAD",
    protocol: Annotated[
        Protocol,
        Option(
            help="generate: free-running answers alone. both: answers with the gold tokens given "
            "as well."
        ),
    ] = "both",
    min_reliability: Annotated[float | None, _minimum("reliability")] = None,
    min_generalization: Annotated[float | None, _minimum("generalization")] = None,
    min_locality: Annotated[float | None, _minimum("locality")] = None,
    per_fact: Annotated[
        bool, Option("--per-fact", help="Print the scores of each fact, too.")
    ] = False,
) -> None:
    """Score a version: what was edited, and what must not change.

    Reliability is about the edited prompts, generalization about other phrasings of them, locality
    about prompts whose answers must not change. Scores are those of greedy, free-running answers.
    An answer is right if it starts with the target, as whole words. Two more readings are printed
    beside this one: exact (the answer is the target and stops) and said (its first sentence holds
    the target, and not the old answer). The teacher-forced scores are for comparison with papers.
    The exit code is 3 when a score is below its minimum.

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
        out.note(*fact_file.remarks(SHOWN))
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
    minima = (min_reliability, min_generalization, min_locality)
    below = False
    for (name, prompts), minimum in zip(MEASURED_ON.items(), minima, strict=True):
        rate: Rate = getattr(scores, name)
        if minimum is None or rate.value >= minimum:
            continue
        below = True
        if rate.n:
            out.warn(f"{name} {rate.value:.4f} is below {minimum}")
        else:
            out.warn(f"{name} cannot be at least {minimum}: no fact has {prompts}")
    if below:
        raise Exit(exit_codes.BELOW_THRESHOLD)


def _rates(scores: EditScores) -> dict[str, Rate]:
    kinds = {f"locality_{kind}": rate for kind, rate in scores.kinds.items()}
    return {key: kinds.get(key) or getattr(scores, key.removeprefix("locality_")) for key in RATES}


def _print(out: Output, version: str, scores: EditScores, *, per_fact: bool) -> None:
    out.text(f"{version}: {counted(scores.reliability.n, 'fact')}")
    forced: dict[str, Any] = {key: getattr(scores.teacher_forced, key, None) for key in RATES}
    out.table(
        {
            "score": RATES[key],
            "value": f"{rate.value:.3f}",
            "95 %": f"{rate.low:.3f}-{rate.high:.3f}",
            "n": rate.n,
            "teacher-forced": f"{forced[key].value:.3f}" if forced[key] else "",
        }
        for key, rate in _rates(scores).items()
        if rate.n
    )
    out.text(f"readings, rel. / gen.: {', '.join(_readings(scores))}")
    if len(scores.retention) > 1:
        by_age = " ".join(f"{band.reliability:.2f}" for band in scores.retention)
        out.text(f"retention, newest first: {by_age}")
    if per_fact:
        out.table(
            {
                "fact": score.id,
                "reliable": "yes" if score.reliable else "NO",
                "rephrases": f"{sum(score.rephrases)}/{len(score.rephrases)}",
                "near": f"{sum(score.near)}/{len(score.near)}",
                "far": f"{sum(score.far)}/{len(score.far)}",
                "answer": score.answer,
            }
            for score in scores.per_fact
        )


def _readings(scores: EditScores) -> Iterator[str]:
    """Each reading with its rates of the scores that were measured."""
    for reading, targets in scores.readings.items():
        rates = (targets.reliability, targets.generalization)
        yield f"{reading} {' / '.join(f'{rate.value:.2f}' for rate in rates if rate.n)}"


def _record(
    version: str, protocol: Protocol, scores: EditScores, *, per_fact: bool
) -> dict[str, object]:
    rates = _rates(scores)
    values = {key: _value(rate) for key, rate in rates.items()}
    record: dict[str, object] = {
        "version": version,
        "facts": scores.reliability.n,
        "protocol": protocol,
        **{key: values[key] for key in ("reliability", "generalization")},
        "readings": {
            reading: {
                "reliability": _value(targets.reliability),
                "generalization": _value(targets.generalization),
            }
            for reading, targets in scores.readings.items()
        },
        "locality": {
            "near": values["locality_near"],
            "far": values["locality_far"],
            "all": values["locality"],
            "identical": values["identical"],
            "kinds": {kind: _value(rate) for kind, rate in scores.kinds.items()},
        },
        **{key: values[key] for key in ("portability", "old_answers")},
        "routing": {key: values[key] for key in ("opened_in_scope", "opened_out_of_scope")},
        "ci95": {key: [round(r.low, 6), round(r.high, 6)] for key, r in rates.items() if r.n},
        "n": {key: rate.n for key, rate in rates.items() if rate.n},
        "retention": [
            {"age": [band.newer, band.older], "reliability": round(band.reliability, 6)}
            for band in scores.retention
        ],
    }
    if forced := scores.teacher_forced:
        record["teacher_forced"] = {key: _value(getattr(forced, key)) for key in MEASURED_ON}
    if per_fact:
        record["per_fact"] = [asdict(score) for score in scores.per_fact]
    return record


def _value(rate: Rate) -> float | None:
    return round(rate.value, 6) if rate.n else None
