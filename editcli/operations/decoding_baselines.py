"""What pruning is compared with: contrastive decoding, and heads scaled in two runs.

Both are ways to decode, and cost a second pass of the model for every token; nothing of them can be
part of a version.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from editcli.operations.conflict_session import Bench, measured_record
from editors import EditorError
from editors.conflicts.baselines.contrastive import contrastive_answers
from editors.conflicts.baselines.two_run_scaling import TwoRun, head_effects, select
from editors.conflicts.cases import Ask, Asked, answer_room, first_token, measure
from editors.inference.generation import Answer, answers

if TYPE_CHECKING:
    from editors.conflicts.cases import Measured
    from editors.conflicts.resolve import Prefer

By = Literal["prune", "juice", "cad"]

FOUND_ON = 4  # rows of each kind of prompt that heads are found on (JuICE)
HEADS = 5  # to boost, and as many to suppress
FACTORS = (1.0, 3.0, 5.0, 10.0, 30.0, -1.0, -2.0, -5.0)
STRENGTHS = tuple((boost, suppress) for boost in (0, 1, 2, 3, 5) for suppress in (0, 1, 2, 3))
ALPHAS: dict[Prefer, tuple[float | None, ...]] = {
    "context": (0.5, 1.0, 2.0, 4.0, None),
    "memory": (-0.25, -0.5, -0.75, -1.0),
}
DEV_ROWS = 120


@dataclass(frozen=True, slots=True)
class Rival:
    """A way to decode, tuned on dev and measured on test."""

    settings: dict[str, Any]
    before: Measured
    after: Measured
    cost: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "settings": self.settings,
            "before": measured_record(self.before),
            "after": measured_record(self.after),
            "cost": round(self.cost, 3),
        }


def rival(
    by: Literal["juice", "cad"],
    bench: Bench,
    locating: Sequence[Asked],
    dev: Sequence[Asked],
    test: Sequence[Asked],
    prefer: Prefer,
) -> Rival:
    """Tune ``by`` on the dev split and measure it on the test split.

    ``cost``: seconds of answering the test split over those of plain decoding.

    Raises:
        EditorError: no head helps on every kind of prompt (juice).
    """
    base = bench.workspace.base
    with bench.attached():
        ways = _contrasts(bench, prefer) if by == "cad" else _two_runs(bench, locating, prefer)
    tried = [a for a in dev if a.conflicting][:DEV_ROWS]
    best: tuple[float, dict[str, Any], Ask] | None = None
    with bench.attached() as edited:
        for settings, ask in ways:
            rates = measure(base, tried, edited, ask).rates
            rate = rates.memory.value if prefer == "memory" else rates.context.value
            if best is None or rate > best[0]:
                best = rate, settings, ask
        assert best is not None
        before = measure(base, test, edited)
        after = measure(base, test, edited, best[2])
        cost = _seconds(base, test, best[2]) / _seconds(base, test, None)
    return Rival({"by": by, **best[1]}, before, after, cost)


def _contrasts(bench: Bench, prefer: Prefer) -> list[tuple[dict[str, Any], Ask]]:
    base = bench.workspace.base

    def asking(alpha: float | None) -> Ask:
        def ask(rows: Sequence[Asked], room: int) -> list[Answer]:
            prompts, questions = [a.row.prompt for a in rows], [a.row.question for a in rows]
            return contrastive_answers(base, prompts, questions, room, alpha)

        return ask

    return [
        ({"alpha": "adaptive" if alpha is None else alpha}, asking(alpha))
        for alpha in ALPHAS[prefer]
    ]


def _two_runs(
    bench: Bench, rows: Sequence[Asked], prefer: Prefer
) -> list[tuple[dict[str, Any], Ask]]:
    import torch

    base = bench.workspace.base
    by_kind = []
    for kind in ("clean", "substitution", "coherent"):
        of_kind = [a for a in rows if a.conflicting and kind in ("clean", a.row.kind)][:FOUND_ON]
        if not of_kind or (kind == "clean" and prefer == "context"):
            continue  # without a passage there is nothing of it to find
        prompts = [a.row.question if kind == "clean" else a.row.prompt for a in of_kind]
        wanted = [a.memory if prefer == "memory" else a.row.context_answer for a in of_kind]
        tokens = torch.tensor(
            [first_token(base, p, w) for p, w in zip(prompts, wanted, strict=True)]
        )
        by_kind.append(head_effects(base, prompts, tokens, FACTORS))
    boost, suppress = select(by_kind, FACTORS, HEADS)
    if not boost and not suppress:
        raise EditorError(
            "no head makes the answer likelier on every kind of prompt", "`--by prune`"
        )

    def asking(run: TwoRun) -> Ask:
        def ask(rows: Sequence[Asked], room: int) -> list[Answer]:
            return run.answers(base, [a.row.prompt for a in rows], room)

        return ask

    told = {"boosted": [list(h) for h in boost], "suppressed": [list(h) for h in suppress]}
    return [
        (
            {**told, "boost_by": boosted, "suppress_by": suppressed},
            asking(TwoRun(boost, suppress, boosted, suppressed)),
        )
        for boosted, suppressed in STRENGTHS
        if boosted or suppressed
    ]


def _seconds(base: Any, rows: Sequence[Asked], ask: Ask | None) -> float:
    room = answer_room(base, rows)
    started = time.monotonic()
    if ask is None:
        answers(base, [a.row.prompt for a in rows], room)
    else:
        ask(rows, room)
    return time.monotonic() - started
