"""Measure the scores of atlas's edits and write docs/benchmarks.md.

    python scripts/bench.py                       # everything, more than an hour on two cores
    python scripts/bench.py --only robust:100     # one cell, printed and kept beside the others
    python scripts/bench.py --page                # the page from what is kept

Cells are kept in docs/benchmarks.json, so that a table can be completed in several runs; a cell is
always the result of one whole measurement.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from parts import run

from editcli.files.packaged import datasets_dir
from editcli.models.loading import load_base
from editors.evaluation.edit_scores import Scores, check
from editors.evaluation.metrics import Rate, normalised
from editors.facts import Fact
from editors.inference.generation import answers
from editors.methods.base import NoMemo
from editors.methods.edit_state import EditState
from editors.methods.wise.method import Wise
from editors.model.base_model import Base
from editors.scope.calibration import Phrasings

DOCS = Path(__file__).resolve().parents[1] / "docs"
KEPT, NOTES = DOCS / "benchmarks.json", DOCS / "benchmarks-notes.md"
SINGLE = 50  # single edits averaged for T=1
SIZES = {"1": 1, "100": 100, "1000": 1000}
BARS = {
    "1": (0.99, 0.97, 0.99, 1.0),
    "100": (0.99, 0.95, 0.98, 0.999),
    "1000": (0.98, 0.90, 0.97, 0.999),
    "stream": (0.97, 0.90, 0.97, 0.999),
}
# The paper's constants are for models of 7B: at its learning rate of 1 three of four single edits
# of atlas are not learnt in 70 steps. This rate and ratio were the best for it of those tried.
SETTINGS: dict[str, dict[str, str | int | float | bool]] = {
    "robust": {},
    "paper": {"profile": "paper", "learning_rate": 5.0, "act_ratio": 0.88},
}
NAMES = ("reliability", "generalization", "near", "far")


@dataclass(frozen=True, slots=True)
class Workbench:
    """A profile of the method on atlas, calibrated."""

    base: Base
    method: Wise
    empty: EditState

    def edited(self, facts: Sequence[Fact], state: EditState | None = None) -> EditState:
        start = self.empty if state is None else state
        done = self.method.apply(start, facts, memo=NoMemo(), on_progress=lambda _: True)
        return done.state

    def scores(self, state: EditState, facts: Sequence[Fact]) -> Scores:
        return check(self.base, lambda: self.method.attach(state), facts)


def facts_of(name: str) -> list[Fact]:
    with (datasets_dir() / "atlas" / name).open(encoding="utf-8") as lines:
        return [Fact.from_dict(json.loads(line)) for line in lines]


def phrasings() -> list[Phrasings]:
    with (datasets_dir() / "calibration.jsonl").open(encoding="utf-8") as lines:
        return [Phrasings.from_dict(json.loads(line)) for line in lines]


def told(rate: Rate) -> list[float | int]:
    """Value, n, and the interval's ends."""
    return [round(rate.value, 4), rate.n, round(rate.low, 4), round(rate.high, 4)]


def cell(scores: Scores) -> dict[str, object]:
    """What one measurement leaves: rates with their n and interval."""
    forced = scores.teacher_forced
    assert forced is not None
    return {
        "reliability": told(scores.reliability),
        "generalization": told(scores.generalization),
        "near": told(scores.near),
        "far": told(scores.far),
        "identical": told(scores.identical),
        "opened_in_scope": told(scores.opened_in_scope),
        "opened_out_of_scope": told(scores.opened_out_of_scope),
        "old_answers": told(scores.old_answers),
        "forced_reliability": told(forced.reliability),
        "forced_generalization": told(forced.generalization),
        "retention": [round(band.reliability, 4) for band in scores.retention],
    }


def singles(bench: Workbench, facts: Sequence[Fact]) -> dict[str, object]:
    """The mean over edits each made alone on the bare base."""
    picked = facts[:: len(facts) // SINGLE][:SINGLE]
    cells = [cell(bench.scores(bench.edited([fact]), [fact])) for fact in picked]
    merged: dict[str, object] = {}
    for name in cells[0]:
        if name == "retention":
            continue
        parts = [c[name] for c in cells]
        outcomes = [p[0] for p in parts if p[1]]  # type: ignore[index]
        rate = Rate.of(outcomes)
        n = sum(p[1] for p in parts)  # type: ignore[index]
        merged[name] = [*told(rate)[:1], n, *told(rate)[2:]]
    return merged


def many(bench: Workbench, facts: Sequence[Fact]) -> dict[str, object]:
    """All facts in one apply, measured after the last, timed."""
    started = time.monotonic()
    state = bench.edited(facts)
    applied = time.monotonic()
    found = cell(bench.scores(state, facts))
    found["apply_seconds"] = round(applied - started, 2)
    found["check_seconds"] = round(time.monotonic() - applied, 2)
    return found


def stream(bench: Workbench, updates: Sequence[Fact]) -> dict[str, object]:
    """The real changes in time order, a year at a time; what is in force after the last."""
    started = time.monotonic()
    state = bench.empty
    year: Callable[[Fact], str] = lambda fact: (fact.note or "").rsplit(" ", 1)[-1][:4]  # noqa: E731
    for now in sorted({year(fact) for fact in updates}):
        state = bench.edited([fact for fact in updates if year(fact) == now], state)
    applied = time.monotonic()
    in_force = state.in_force()
    found = cell(bench.scores(state, in_force))
    found["apply_seconds"] = round(applied - started, 2)
    found["updates"] = len(updates)
    found["in_force"] = len(in_force)
    former: dict[str, set[str]] = {}
    for fact in updates:
        names = former.setdefault(fact.prompt, set())
        names.update(normalised(n) for n in (fact.ground_truth, fact.target) if n)
    asked = [(f, p) for f in in_force for p in (f.prompt, *f.rephrases)]
    with bench.method.attach(state):
        said = answers(bench.base, [p for _, p in asked], 24)
    gone = [
        float(normalised(a.text) not in former[f.prompt] - {normalised(f.target)})
        for (f, _), a in zip(asked, said, strict=True)
    ]
    rate = Rate.of(gone)
    found["former_not_answered"] = [
        round(rate.value, 4),
        rate.n,
        round(rate.low, 4),
        round(rate.high, 4),
    ]
    return found


def measure(profile: str, size: str) -> dict[str, object]:
    base = load_base("atlas", device="cpu")
    method = Wise(base, SETTINGS[profile], seed=0)
    bench = Workbench(base, method, method.empty(phrasings()))
    if size == "stream":
        return stream(bench, facts_of("updates.jsonl"))
    facts = facts_of("edits.jsonl")
    return singles(bench, facts) if size == "1" else many(bench, facts[: SIZES[size]])


# --- the page -------------------------------------------------------------------------------------


_HEAD = f"""\
# Benchmarks

Written by `make bench` (`scripts/bench.py`) on {os.cpu_count()} CPU cores ({platform.machine()}),
torch {torch.__version__}.

atlas is a model organism of under four million parameters: these numbers prove the machinery, not
the behaviour of a 7B model. Greedy, free-running answers that must stop by themselves; every prompt
of the edited facts is measured after the *last* edit. T=1 is the mean of {SINGLE} edits, each alone
on the bare base. No measured phrasing is edited with, trained on, or used to calibrate a router.

## Scores against their bars

| profile | T | reliability | generalization | near locality | far locality | bit-identical |
|---|---|---|---|---|---|---|""".splitlines()


def page(cells: dict[str, dict[str, object]]) -> str:
    lines = [*_HEAD]
    for size, bars in BARS.items():
        lines.append(
            f"| *bar* | {size} | " + " | ".join(f">= {bar}" for bar in bars) + " | of unrouted: 1 |"
        )
        for profile in SETTINGS:
            found = cells.get(f"{profile}:{size}")
            if found:
                values = [_shown(found[name]) for name in NAMES] + [_shown(found["identical"])]
                lines.append(f"| {profile} | {size} | " + " | ".join(values) + " |")
    lines += [
        "",
        "Value and bootstrap 95 % interval. *bit-identical*: locality prompts whose logits are the",
        "base's own, bit for bit; the rest were routed to side memory.",
        "",
        "## Routing and teacher forcing",
        "",
        "| profile | T | routed right, in scope | opened, out of scope | still the old answer "
        "| teacher-forced rel. / gen. | apply | check |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key, found in sorted(cells.items(), key=_order):
        profile, size = key.split(":")
        forced = (
            f"{found['forced_reliability'][0]:.3f} / "  # type: ignore[index]
            f"{found['forced_generalization'][0]:.3f}"  # type: ignore[index]
        )
        times = [
            f"{found[k]:.1f} s" if k in found else "" for k in ("apply_seconds", "check_seconds")
        ]
        lines.append(
            f"| {profile} | {size} | {_shown(found['opened_in_scope'])} | "
            f"{_shown(found['opened_out_of_scope'])} | {_shown(found['old_answers'])} | {forced} | "
            + " | ".join(times)
            + " |"
        )
    for profile in SETTINGS:
        found = cells.get(f"{profile}:stream")
        if found:
            lines += [
                "",
                f"The real stream ({profile}): {found['updates']} changes of head of state or "
                f"government since mid-2005, {found['in_force']} in force at the end; former "
                f"holders' names no longer answered: {_shown(found['former_not_answered'])}.",
            ]
    for key, found in sorted(cells.items(), key=_order):
        if len(found.get("retention", [])) > 1:  # type: ignore[arg-type]
            kept = " ".join(f"{value:.2f}" for value in found["retention"])  # type: ignore[union-attr]
            lines += ["", f"Retention, {key}, newest to oldest tenth: {kept}"]
    return "\n".join(lines) + "\n"


def _order(item: tuple[str, object]) -> tuple[int, str]:
    profile, size = item[0].split(":")
    return list(BARS).index(size), "" if profile == "robust" else profile


def _shown(kept: object) -> str:
    value, _, low, high = kept  # type: ignore[misc]
    return f"{value:.3f} ({low:.3f}-{high:.3f})"


def document(cells: dict[str, dict[str, object]]) -> str:
    """The page, and what is to be said about it."""
    return page(cells) + "\n" + NOTES.read_text(encoding="utf-8")


PARTS = {f"{name}:{size}": partial(measure, name, size) for name in SETTINGS for size in BARS}


if __name__ == "__main__":
    run(__doc__.splitlines()[0], PARTS, KEPT, document)
