"""Measurements of conflicts, as the JSON that commands print and versions keep."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from editors.conflicts.cases import ConflictCase
from editors.text_matching import normalised

if TYPE_CHECKING:
    from editors.conflicts.locate import Ranking
    from editors.conflicts.measure import ConflictResults
    from editors.conflicts.resolve import Trial


def finite(value: float | None) -> float | None:
    """A number as JSON can hold it: rounded, and None where it is undefined or infinite."""
    return None if value is None or not math.isfinite(value) else round(value, 6)


def rates_record(measured: ConflictResults) -> dict[str, Any]:
    """The rates of a group of rows, with intervals."""
    rates = measured.rates._asdict()
    if not measured.edited.results:
        del rates["before"]
    return {
        "rows": len(measured.results),
        **{name: finite(rate.value) for name, rate in rates.items()},
        "ci95": {n: [finite(r.low), finite(r.high)] for n, r in rates.items() if r.n},
    }


def results_record(measured: ConflictResults) -> dict[str, Any]:
    """Everything that ``conflict measure`` prints about rows."""
    conflicting = measured.conflicting
    first = conflicting.first_token_rates._asdict()
    record = {
        **rates_record(conflicting),
        "memorization_ratio": finite(conflicting.memorization_ratio),
        "several_named": sum(result.several for result in conflicting.results),
        "first_token": {
            name: finite(rate.value) for name, rate in first.items() if name != "before"
        },
        "by_kind": {
            kind: {
                **rates_record(part),
                "bcu": finite(part.binary_utilisation.value),
                "ccu": finite(part.utilisation),
            }
            for kind, part in measured.by(lambda case: case.row.kind).items()
        },
        "by_relation": {
            relation: rates_record(part)
            for relation, part in conflicting.by(lambda case: case.row.relation).items()
        },
        "bcu": finite(measured.binary_utilisation.value),
        "ccu": finite(measured.utilisation),
    }
    if any(result.alone is not None for result in measured.results):
        record["without_passage"] = facts_record(measured)
        record["known"] = rates_record(conflicting.known)
        record["unknown"] = rates_record(conflicting.unknown)
    if measured.edited.results:
        record["about_edits"] = edited_record(measured.edited)
    return record


def facts_record(measured: ConflictResults) -> dict[str, int]:
    """How many facts the rows ask for, and how many of them the model answers without a passage.

    ``elicited``: facts without a stated memory answer, of which the model's own answer was taken.
    """
    known, unknown = measured.known.facts, measured.unknown.facts
    asked = measured.facts
    return {
        "asked": asked,
        "known": known,
        "unknown": unknown,
        "elicited": asked - known - unknown,
    }


def edited_record(edited: ConflictResults) -> dict[str, Any]:
    """The four outcomes on rows about edits, by what the passage says; and the router's decisions,
    where there is a router."""
    opened = [result.opened for result in edited.results if result.opened is not None]
    record = {
        **_outcomes(edited),
        "by_state": {state: _outcomes(part) for state, part in edited.by(passage_about).items()},
    }
    if opened:
        record["router"] = {
            "opened_without_passage": 1.0,  # a row is about an edit where this holds
            "opened_with_passage": finite(sum(opened) / len(opened)),
        }
    return record


def passage_about(case: ConflictCase) -> str:
    """What the passage says about an edited fact."""
    passage_answer = normalised(case.row.context_answer)
    if not passage_answer:
        return "irrelevant"
    if passage_answer == normalised(case.memory):
        return "agrees"
    return "stale" if passage_answer == normalised(case.pre_edit_answer or "") else "third"


def _outcomes(measured: ConflictResults) -> dict[str, Any]:
    rates = measured.rates
    return {
        "rows": len(measured.results),
        "edit": finite(rates.memory.value),
        "context": finite(rates.context.value),
        "before": finite(rates.before.value),
        "other": finite(rates.other.value),
    }


def trial_record(trial: Trial) -> dict[str, Any]:
    """A set of heads that was tried on the dev split.

    The value of a set is None if the choice did not need all checks. Whether the set fits is then
    None, too, unless it exceeds a limit.
    """
    return {
        "k": len(trial.heads),
        "rule": trial.rule,
        "heads": [list(head) for head in trial.heads],
        "rate": finite(trial.rate),
        "gain": finite(trial.gain),
        "lost": {name: finite(value) for name, value in trial.lost.items()},
        "value": finite(trial.value) if trial.complete else None,
        "fits": trial.fits if trial.complete or not trial.fits else None,
    }


def heads_record(ranking: Ranking) -> list[dict[str, Any]]:
    """Each head with its scores, the largest of either ranking first; a score without rows is
    None."""
    scores = {name: ranking.mean(name) for name in ("memory", "context", "joint")}
    stable = {name: ranking.stable(name) for name in ("memory", "context")}
    layers, units = scores["memory"].shape
    records = [
        {
            "layer": layer,
            "head": unit,
            **{name: finite(float(values[layer, unit])) for name, values in scores.items()},
            "stable": {n: round(float(v[layer, unit]), 4) for n, v in stable.items()},
        }
        for layer in range(layers)
        for unit in range(units)
    ]
    return sorted(records, key=lambda head: -max(head["memory"], head["context"]))
