"""Resolving conflicts on a store: heads found, chosen, tested once, and saved as a version."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from editcli.cli.console import Output
from editcli.files.conflicts import ConflictFile
from editcli.operations.conflict_session import (
    Bench,
    heads_record,
    measured_record,
    number,
    tokenizer_digest,
)
from editcli.operations.session import Workspace
from editors.conflicts.cases import Asked, measure
from editors.conflicts.locality import Battery, beyond, by_answer, divergence, losses, next_tokens
from editors.conflicts.locate import TOP, LocateSettings, Ranking, locate
from editors.conflicts.resolve import SCREENED, Choice, DevSplit, Prefer, PruneSettings, choose
from editors.heads.head_mask import Head, HeadMask, Resolution, mean_fill
from editors.model.tokenization import encode_prompts

if TYPE_CHECKING:
    import torch

    from editors.conflicts.cases import Measured
    from editors.inference.attach import Attached

ALARM = 0.98  # of neutral prompts must keep their likeliest next token
NEUTRAL_TEXTS = 300
DEV_NEUTRAL_TEXTS = 60


@dataclass(frozen=True, slots=True)
class Found:
    """What resolving gave, before anything is saved.

    ``before`` and ``after``: the test split without and with the heads pruned; ``lost``: how much
    worse each check of locality got, ``refused``: those beyond their gates.
    """

    mask: HeadMask
    ranking: Ranking
    choice: Choice
    before: Measured
    after: Measured
    scores: Mapping[str, Mapping[str, float]]
    lost: Mapping[str, float]
    refused: tuple[str, ...]
    report: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The keys `pruned`, `before`, `after` and `locality`, and what else was measured."""
        return {
            "pruned": [list(head) for head in self.mask.heads],
            "before": measured_record(self.before),
            "after": measured_record(self.after),
            "locality": {
                "lost": {name: number(value) for name, value in self.lost.items()},
                "refused": list(self.refused),
                "scores": {
                    when: {name: number(value) for name, value in scores.items()}
                    for when, scores in self.scores.items()
                },
                **{key: self.report[key] for key in ("next_token", "reversible")},
            },
        }


def find(
    workspace: Workspace,
    bench: Bench,
    file: ConflictFile,
    prefer: Prefer,
    locating: LocateSettings,
    pruning: PruneSettings,
    neutral: Sequence[str],
    out: Output,
    describe: Callable[[str], None],
) -> Found:
    """Rank on the locate split, choose on dev, measure on test; the base is as before, after.

    ``bench``: the edits without any pruned heads.

    Raises:
        EditorError: no row shows a conflict, or the model has no separable heads.
    """
    base, attach = workspace.base, bench.trying(prefer)
    seconds: dict[str, float] = {}
    clock = _Clock(seconds, describe)
    clock("memory's answers")
    locating_rows, dev_rows, test_rows = bench.splits(file, out)
    clock("ranking heads")
    with bench.attached() as edited:
        ranking = locate(base, locating_rows, locating, edited)
    overlap = _overlap(bench, locating_rows, locating, ranking)
    with bench.attached():
        masked = _masker(workspace, ranking, pruning, [a.row.prompt for a in locating_rows])
    clock("choosing heads")
    edits = bench.state.in_force()
    calm = [a for a in locating_rows if not a.conflicting]
    dev = DevSplit(
        base,
        attach,
        dev_rows,
        # Heads are not ranked on rows without a conflict: those of the locate split count here.
        Battery.of([*dev_rows, *calm], edits, neutral[:DEV_NEUTRAL_TEXTS]),
        prefer,
        masked,
    )
    choice = choose(dev, ranking, prefer, pruning.heads)
    mask = masked(choice.chosen.heads)
    clock("testing")
    battery = Battery.of(test_rows, edits, neutral[:NEUTRAL_TEXTS])
    texts = neutral[:NEUTRAL_TEXTS]
    before, scores_before, next_before = _test(bench, attach(HeadMask()), test_rows, battery, texts)
    after, scores_after, next_after = _test(bench, attach(mask), test_rows, battery, texts)
    with bench.attached():
        reversible = next_tokens(base, texts).equal(next_before)
    clock("")
    lost = losses(scores_before, scores_after)
    kl, same = divergence(next_before, next_after)
    report = {
        "file": file.name,
        "digest": file.digest,
        "rows": {"locate": len(locating_rows), "dev": len(dev_rows), "test": len(test_rows)},
        "locating": asdict(locating),
        "pruning": asdict(pruning),
        "grid": [trial.to_dict() for trial in choice.trials],
        "listing": choice.chosen.listing,
        "heads": heads_record(ranking),
        "overlap_with_base": overlap,
        "next_token": {"kl": number(kl), "same_top": number(same), "alarm": same < ALARM},
        "reversible": reversible,
        "base": workspace.store.config.fingerprint,
        "tokenizer": tokenizer_digest(workspace),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }
    return Found(
        mask,
        ranking,
        choice,
        before,
        after,
        {"before": scores_before, "after": scores_after},
        lost,
        tuple(beyond(lost)),
        report,
    )


def resolution(bench: Bench, found: Found, prefer: Prefer) -> Resolution:
    """What a version keeps of it."""
    return Resolution(
        prefer, found.mask, bench.state.edits, {**found.report, **found.to_dict(), "by": "prune"}
    )


class _Clock:
    """Times the stages that it announces."""

    def __init__(self, seconds: dict[str, float], describe: Callable[[str], None]) -> None:
        self._seconds, self._describe = seconds, describe
        self._stage, self._since = "", time.monotonic()

    def __call__(self, stage: str) -> None:
        now = time.monotonic()
        if self._stage:
            self._seconds[self._stage] = now - self._since
        self._stage, self._since = stage, now
        if stage:
            self._describe(stage)


def _masker(
    workspace: Workspace, ranking: Ranking, pruning: PruneSettings, prompts: Sequence[str]
) -> Callable[[tuple[Head, ...]], HeadMask]:
    """From heads (or key-value groups) to their mask, as the settings have it."""
    base = workspace.base
    each = base.architecture.n_heads // base.architecture.n_kv_heads
    grouped = ranking.settings.unit == "group"

    def heads_of(units: Sequence[Head]) -> tuple[Head, ...]:
        if not grouped:
            return tuple(units)
        return tuple(Head(u.layer, u.head * each + i) for u in units for i in range(each))

    fill: dict[Head, torch.Tensor] = {}
    if pruning.ablation == "mean":
        count = max(SCREENED, pruning.heads or 0)
        candidates = {*ranking.top("memory", count), *ranking.top("context", count)}
        encoded = encode_prompts(base.tokenizer, prompts)
        fill = mean_fill(base, heads_of(sorted(candidates)), encoded, pruning.at)

    def masked(units: tuple[Head, ...]) -> HeadMask:
        heads = heads_of(units)
        return HeadMask(heads, pruning.scale, pruning.at, {h: fill[h] for h in heads if h in fill})

    return masked


def _overlap(
    bench: Bench, rows: Sequence[Asked], settings: LocateSettings, ranking: Ranking
) -> dict[str, float] | None:
    """The share of the ten best heads that the unedited base ranks among its ten best too."""
    from editors import EditorError

    if not bench.state.in_force():
        return None
    plain = [replace(a, memory=a.before or a.memory, fact=None, before=None) for a in rows]
    try:
        on_base = locate(bench.workspace.base, plain, settings)
    except EditorError:
        return None  # the unedited base answers all rows from one source
    scores: tuple[Literal["memory", "context"], ...] = ("memory", "context")
    return {
        name: len({*ranking.top(name, TOP)} & {*on_base.top(name, TOP)}) / TOP for name in scores
    }


def _test(
    bench: Bench,
    attached: AbstractContextManager[Attached],
    rows: Sequence[Asked],
    battery: Battery,
    texts: Sequence[str],
) -> tuple[Measured, dict[str, float], torch.Tensor]:
    base = bench.workspace.base
    with attached as edited:
        measured = measure(base, rows, edited)
        scores = battery.scores(base, by_answer, edited)
        following = next_tokens(base, texts)
    other = measured.conflicting.rates.other
    return measured, {**scores, "other": other.value}, following
