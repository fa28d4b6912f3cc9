"""Scores of edits as tables for people and as JSON, in one form of asking or in two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from editcli.cli.console import Output, Row
from editcli.operations.scores.task_scores import TaskScore, task_rows, tasks_record
from editcli.store.tables.database import DAMAGED
from editcli.wording import counted
from editors import EditorError
from editors.facts import NEAR_KINDS

if TYPE_CHECKING:
    from editors.evaluation.edit_scores import EditScores
    from editors.evaluation.metrics import Rate
    from editors.evaluation.readings import Reading

Form = Literal["plain", "chat"]
"""How prompts are asked: as they are, or as turns of chats."""

HEADLINES: Mapping[Form, Reading] = {"plain": "starts", "chat": "said"}
"""The reading that counts: instruct models answer in sentences where they are asked in chats."""

Scores = Mapping[Form, "EditScores"]
"""The scores in each form; plain prompts are always there, and the first."""

TasksByForm = dict[Form, list[TaskScore]]
"""The scores of tasks in each form; empty where none were run."""

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
TEACHER_FORCED = ("reliability", "generalization", "locality")


def _rates(scores: EditScores) -> dict[str, Rate]:
    kinds = {f"locality_{kind}": rate for kind, rate in scores.kinds.items()}
    return {key: kinds.get(key) or getattr(scores, key.removeprefix("locality_")) for key in RATES}


# --- for people -----------------------------------------------------------------------------------


def print_scores(
    out: Output, version: str, scores: Scores, tasks: TasksByForm, *, per_fact: bool
) -> None:
    """Print the scores of a version as text of at most 80 columns; each fact's if ``per_fact``."""
    plain = scores["plain"]
    out.text(f"{version}: {counted(plain.reliability.n, 'fact')}")
    if len(scores) == 1:
        out.table(_rows_of_one(plain), spare=("teacher-forced",))
    else:
        out.table(_rows_of_several(scores))
    for form, of_form in scores.items():
        named = f"{form}, " if len(scores) > 1 else ""
        out.text(f"{named or 'readings, '}rel. / gen.: {', '.join(_readings(of_form))}")
        if len(scores) > 1 and (forced := of_form.teacher_forced):
            rates = {key: getattr(forced, key) for key in TEACHER_FORCED}
            told = ", ".join(f"{key} {rate.value:.2f}" for key, rate in rates.items() if rate.n)
            out.text(f"{named}teacher-forced: {told}")
        if len(of_form.retention) > 1:
            by_age = " ".join(f"{band.reliability:.2f}" for band in of_form.retention)
            out.text(f"{named}retention, newest first: {by_age}")
    for form, of_tasks in tasks.items():
        named = " in chats" if form == "chat" else ""
        out.text(f"tasks{named}, before and after")
        out.table(task_rows(of_tasks))
    if per_fact:
        out.table(row for form in scores for row in _fact_rows(form, scores))


def _rows_of_one(scores: EditScores) -> Iterator[Row]:
    forced: dict[str, Any] = {key: getattr(scores.teacher_forced, key, None) for key in RATES}
    for key, rate in _rates(scores).items():
        if rate.n:
            yield {
                "score": RATES[key],
                "value": f"{rate.value:.3f}",
                "95 %": f"{rate.low:.3f}-{rate.high:.3f}",
                "n": rate.n,
                "teacher-forced": f"{forced[key].value:.3f}" if forced[key] else "",
            }


def _rows_of_several(scores: Scores) -> Iterator[Row]:
    rates = {form: _rates(of_form) for form, of_form in scores.items()}
    for key, name in RATES.items():
        measured = {form: of_form[key] for form, of_form in rates.items() if of_form[key].n}
        if measured:
            row: dict[str, object] = {"score": name}
            for form, rate in measured.items():
                row[form] = f"{rate.value:.3f}"
                row[f"95 %, {form}"] = f"{rate.low:.3f}-{rate.high:.3f}"
            yield {**row, "n": max(rate.n for rate in measured.values())}


def _readings(scores: EditScores) -> Iterator[str]:
    """Each reading with its rates of the scores that were measured."""
    for reading, targets in scores.readings.items():
        rates = (targets.reliability, targets.generalization)
        yield f"{reading} {' / '.join(f'{rate.value:.2f}' for rate in rates if rate.n)}"


def _fact_rows(form: Form, scores: Scores) -> Iterator[Row]:
    for score in scores[form].per_fact:
        row: dict[str, object] = {"fact": score.id}
        if len(scores) > 1:
            row["form"] = form
        yield row | {
            "reliable": "yes" if score.reliable else "NO",
            "rephrases": f"{sum(score.rephrases)}/{len(score.rephrases)}",
            "near": f"{sum(score.near)}/{len(score.near)}",
            "far": f"{sum(score.far)}/{len(score.far)}",
            "answer": score.answer,
        }


# --- for programs ---------------------------------------------------------------------------------


def scores_record(
    version: str, protocol: str, scores: Scores, tasks: TasksByForm, *, per_fact: bool
) -> dict[str, object]:
    """The scores of a version as JSON: those of plain prompts, and under ``forms`` those of each
    form if there are several."""
    blocks = {form: scores_block(of_form, per_fact=per_fact) for form, of_form in scores.items()}
    for form, of_tasks in tasks.items():
        blocks[form]["tasks"] = tasks_record(of_tasks)
    record = {
        "version": version,
        "facts": scores["plain"].reliability.n,
        "protocol": protocol,
        **blocks["plain"],
    }
    return record if len(blocks) == 1 else {**record, "forms": blocks}


IN_FORCE = "facts in force"
"""What kept scores are about where no file of facts was named."""

KEPT = ("reliability", "generalization", "locality_near", "locality_far")


def kept_scores(of: str, scores: Scores) -> dict[str, Any]:
    """The headline scores as a store keeps them with the version; ``of``: which facts they are
    about."""
    forms = {}
    for form, of_form in scores.items():
        rates = {key: rate for key, rate in _rates(of_form).items() if key in KEPT and rate.n}
        forms[form] = {
            **{key: _value(rate) for key, rate in rates.items()},
            "ci95": {key: [round(r.low, 6), round(r.high, 6)] for key, r in rates.items()},
            "n": {key: rate.n for key, rate in rates.items()},
        }
    return {"of": of, "facts": scores["plain"].reliability.n, "forms": forms}


def told_scores(kept: Mapping[str, Any]) -> str:
    """Kept scores in a line: "reliability 1.000, generalization 0.950". Raises EditorError for
    anything else."""
    parts = []
    try:
        for form, of_form in kept["forms"].items():
            rates = [f"{RATES[key]} {of_form[key]:.3f}" for key in KEPT if key in of_form]
            parts.append(("chat: " if form == "chat" else "") + ", ".join(rates))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise EditorError(f"kept scores cannot be read: {error}", DAMAGED) from error
    return "; ".join(parts)


def scores_block(scores: EditScores, *, per_fact: bool) -> dict[str, object]:
    rates = _rates(scores)
    values = {key: _value(rate) for key, rate in rates.items()}
    block: dict[str, object] = {
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
        block["teacher_forced"] = {key: _value(getattr(forced, key)) for key in TEACHER_FORCED}
    if per_fact:
        block["per_fact"] = [asdict(score) for score in scores.per_fact]
    return block


def _value(rate: Rate) -> float | None:
    return round(rate.value, 6) if rate.n else None
