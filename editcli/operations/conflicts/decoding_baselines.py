"""The baselines that pruning is compared with: contrastive decoding, and heads scaled in two runs.

Both are ways to decode, and cost a second pass of the model for every token. So neither can be part
of a version.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

from editcli.cli.console import NO_PROGRESS, Progress
from editcli.operations.conflicts.records import results_record
from editcli.operations.conflicts.session import ConflictSession
from editors import EditorError
from editors.conflicts.cases import ConflictCase
from editors.heads.pruning import Source

if TYPE_CHECKING:
    from editors.conflicts.measure import ConflictResults, Decoder
    from editors.inference.edited_model import EditedModel

By = Literal["prune", "juice", "cad"]

ROWS_PER_KIND = 4  # rows of each kind of prompt, on which heads are selected (JuICE)
HEADS = 5  # to boost, and as many to suppress
FACTORS = (1.0, 3.0, 5.0, 10.0, 30.0, -1.0, -2.0, -5.0)
STRENGTHS = tuple(product((0, 1, 2, 3, 5), (0, 1, 2, 3)))[1:]  # of boosting and suppressing
ALPHAS: dict[Source, tuple[float | None, ...]] = {
    "context": (0.5, 1.0, 2.0, 4.0, None),
    "memory": (-0.25, -0.5, -0.75, -1.0),
}
DEV_ROWS = 120


@dataclass(frozen=True, slots=True)
class Baseline:
    """A way to decode, tuned on dev and measured on test."""

    settings: dict[str, Any]
    before: ConflictResults
    after: ConflictResults
    cost: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "settings": self.settings,
            "before": results_record(self.before),
            "after": results_record(self.after),
            "times_as_slow": round(self.cost, 3),
        }


def measure_baseline(
    by: Literal["juice", "cad"],
    conflicts: ConflictSession,
    locate_cases: Sequence[ConflictCase],
    dev_cases: Sequence[ConflictCase],
    test_cases: Sequence[ConflictCase],
    prefer: Source,
    bar: Progress = NO_PROGRESS,
) -> Baseline:
    """Tune ``by`` on the dev split and measure it on the test split.

    ``bar``: moves with each setting that is tried. ``cost``: seconds of answering the test split
    over those of plain decoding.

    Raises:
        EditorError: no head helps on every kind of prompt (juice).
    """
    from editors.conflicts.measure import max_answer_tokens, measure
    from editors.inference.generation import answers

    tuned_on = [case for case in dev_cases if case.conflicting][:DEV_ROWS]
    with conflicts.attached() as model:

        def rate(tuned: tuple[dict[str, Any], Decoder]) -> float:
            rates = measure(model, tuned_on, tuned[1]).rates
            bar.advance()
            return rates.memory.value if prefer == "memory" else rates.context.value

        decoders = (
            _contrastive_decoders(model, prefer)
            if by == "cad"
            else _two_run_decoders(model, locate_cases, prefer)
        )
        settings, decoder = max(decoders, key=rate)
        bar.stage(f"testing {by}", None, "runs")
        before = measure(model, test_cases)
        bar.advance()
        after = measure(model, test_cases, decoder)
        bar.advance()
        tokens = max_answer_tokens(model.base, test_cases)
        prompts = [case.row.prompt for case in test_cases]
        cost = _seconds(lambda: decoder(test_cases, tokens))
        cost /= _seconds(lambda: answers(model, prompts, tokens))
    return Baseline({"by": by, **settings}, before, after, cost)


def _contrastive_decoders(
    model: EditedModel, prefer: Source
) -> list[tuple[dict[str, Any], Decoder]]:
    """Contrastive decoding at each strength of the grid, with its settings."""
    from editors.conflicts.baselines.contrastive import contrastive_answers

    def decoder(alpha: float | None) -> Decoder:
        return lambda cases, tokens: contrastive_answers(
            model, [c.row.prompt for c in cases], [c.row.question for c in cases], tokens, alpha
        )

    return [
        ({"alpha": "adaptive" if alpha is None else alpha}, decoder(alpha))
        for alpha in ALPHAS[prefer]
    ]


def _two_run_decoders(
    model: EditedModel, cases: Sequence[ConflictCase], prefer: Source
) -> list[tuple[dict[str, Any], Decoder]]:
    """Two-run scaling of the heads that ``cases`` select, at each strength of the grid."""
    import torch

    from editors.conflicts.baselines.two_run_scaling import head_effects, select, two_run_answers
    from editors.conflicts.measure import first_tokens

    effects_by_kind = []
    for kind in ("clean", "substitution", "coherent"):
        of_kind = [c for c in cases if c.conflicting and kind in ("clean", c.row.kind)][
            :ROWS_PER_KIND
        ]
        if not of_kind or (kind == "clean" and prefer == "context"):
            continue  # a prompt without a passage shows no head that carries the passage
        prompts = [c.row.question if kind == "clean" else c.row.prompt for c in of_kind]
        wanted = [c.memory if prefer == "memory" else c.row.context_answer for c in of_kind]
        tokens = torch.tensor(first_tokens(model.base, list(zip(prompts, wanted, strict=True))))
        effects_by_kind.append(head_effects(model.base, prompts, tokens, FACTORS))
    boost, suppress = select(effects_by_kind, FACTORS, HEADS)
    if not boost and not suppress:
        raise EditorError(
            "no head makes the answer likelier on every kind of prompt", "`--by prune`"
        )

    def decoder(boost_by: float, suppress_by: float) -> Decoder:
        scaled = [(h, boost_by) for h in boost] + [(h, -suppress_by) for h in suppress]
        return lambda cases, tokens: two_run_answers(
            model, [case.row.prompt for case in cases], tokens, scaled
        )

    heads = {"boosted": [list(h) for h in boost], "suppressed": [list(h) for h in suppress]}
    return [
        ({**heads, "boost_by": boosted, "suppress_by": suppressed}, decoder(boosted, suppressed))
        for boosted, suppressed in STRENGTHS
    ]


def _seconds(run: Callable[[], object]) -> float:
    started = time.monotonic()
    run()
    return time.monotonic() - started
