"""Resolving conflicts on a store: heads are ranked, chosen, and tested once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from editcli.cli.console import Output
from editcli.files.conflicts import ConflictFile
from editcli.operations.conflict_records import finite, heads_record, results_record, trial_record
from editcli.operations.conflict_session import ConflictSession
from editcli.operations.session import Session
from editors import EditorError
from editors.conflicts.cases import ConflictCase
from editors.heads.pruning import Head, HeadMask, Source

if TYPE_CHECKING:
    import torch

    from editors.conflicts.locality import Battery
    from editors.conflicts.locate import LocateSettings, Ranking
    from editors.conflicts.measure import ConflictResults
    from editors.conflicts.resolve import Choice, PruneSettings
    from editors.inference.edited_model import EditedModel

ALARM = 0.98  # share of neutral prompts that must keep their likeliest next token
NEUTRAL_TEXTS = 300  # on the test split
DEV_NEUTRAL_TEXTS = 60


@dataclass(frozen=True, slots=True)
class PruningTest:
    """The heads to prune, measured on the test split, before anything is saved.

    ``before`` and ``after``: the test split without and with the heads pruned; ``lost``: how much
    worse each check of locality got; ``refused``: the checks that lost more than their ``limits``.
    """

    mask: HeadMask
    ranking: Ranking
    choice: Choice
    before: ConflictResults
    after: ConflictResults
    scores: Mapping[str, Mapping[str, float]]
    lost: Mapping[str, float]
    refused: list[str]
    limits: Mapping[str, float]
    report: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The keys `pruned`, `before`, `after` and `locality`."""
        return {
            "pruned": [list(head) for head in self.mask.heads],
            "before": results_record(self.before),
            "after": results_record(self.after),
            "locality": {
                "lost": {name: finite(value) for name, value in self.lost.items()},
                "refused": self.refused,
                "limits": dict(self.limits),
                "scores": {
                    when: {name: finite(value) for name, value in scores.items()}
                    for when, scores in self.scores.items()
                },
                **{key: self.report[key] for key in ("next_token", "reversible")},
            },
        }


def find_heads(
    conflicts: ConflictSession,
    file: ConflictFile,
    prefer: Source,
    locating: LocateSettings,
    pruning: PruneSettings,
    neutral: Sequence[str],
    out: Output,
    describe: Callable[[str], None],
) -> PruningTest:
    """Rank on the locate split, choose on dev, measure on test; nothing stays attached.

    ``conflicts``: the edits without any pruned heads.

    Raises:
        EditorError: no row shows a conflict, or the model has no separable heads.
    """
    from editors.conflicts.locality import LIMITS, Battery, beyond, divergence, losses, next_tokens
    from editors.conflicts.locate import locate
    from editors.conflicts.resolve import DevSplit, choose

    session = conflicts.session
    attach = partial(conflicts.attached_with, prefer=prefer)
    edits = conflicts.state.in_force()
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        describe(name)
        started = time.monotonic()
        yield
        seconds[name] = round(time.monotonic() - started, 3)

    with stage("memory's answers"):
        locate_cases, dev_cases, test_cases = conflicts.splits(file, out)
    with stage("ranking heads"):
        with conflicts.attached() as edited:
            ranking = locate(edited, locate_cases, locating)
        overlap = _overlap_with_base(conflicts, locate_cases, locating, ranking)
        with conflicts.attached():
            prompts = [case.row.prompt for case in locate_cases]
            masked = _masker(session, ranking, pruning, prompts)
    with stage("choosing heads"):
        # Rows of the locate split without a conflict are free for checks: no head was ranked on
        # them.
        agreeing = [case for case in locate_cases if not case.conflicting]
        battery = Battery.of([*dev_cases, *agreeing], edits, neutral[:DEV_NEUTRAL_TEXTS])
        dev = DevSplit(
            session.base, lambda heads: attach(masked(heads)), dev_cases, battery, prefer
        )
        choice = choose(dev, ranking, prefer, pruning.heads)
        mask = masked(choice.chosen.heads)
    with stage("testing"):
        texts = neutral[:NEUTRAL_TEXTS]
        battery = Battery.of(test_cases, edits, texts)
        before, scores_before, next_before = _test(attach(HeadMask()), test_cases, battery, texts)
        after, scores_after, next_after = _test(attach(mask), test_cases, battery, texts)
        with conflicts.attached() as edited:
            reversible = next_tokens(edited, texts).equal(next_before)
    kl, same = divergence(next_before, next_after)
    report = {
        "file": file.name,
        "digest": file.digest,
        "rows": {"locate": len(locate_cases), "dev": len(dev_cases), "test": len(test_cases)},
        "locating": asdict(locating),
        "pruning": asdict(pruning),
        "grid": [trial_record(trial) for trial in choice.trials],
        "rule": choice.chosen.rule,
        "heads": heads_record(ranking),
        "overlap_with_base": overlap,
        "next_token": {"kl": finite(kl), "same_top": finite(same), "alarm": same < ALARM},
        "reversible": reversible,
        "base": session.store.config.fingerprint,
        "tokenizer": tokenizer_digest(session),
        "seconds": seconds,
    }
    scores = {"before": scores_before, "after": scores_after}
    lost = losses(scores_before, scores_after)
    refused = beyond(lost)
    return PruningTest(mask, ranking, choice, before, after, scores, lost, refused, LIMITS, report)


def tokenizer_digest(session: Session) -> str:
    """12 hexadecimal digits of a digest of the vocabulary, on which first tokens depend."""
    vocabulary = sorted(session.base.tokenizer.get_vocab().items(), key=lambda item: item[1])
    return sha256(repr(vocabulary).encode()).hexdigest()[:12]


def _masker(
    session: Session, ranking: Ranking, pruning: PruneSettings, prompts: Sequence[str]
) -> Callable[[tuple[Head, ...]], HeadMask]:
    """The function from heads (or key-value groups) to the mask that the settings ask for."""
    from editors.conflicts.resolve import SCREENED
    from editors.heads.head_mask import mean_fill
    from editors.model.tokenization import encode_prompts

    base = session.base
    units_in_layer = ranking.memory.shape[1]
    size = base.architecture.n_heads // units_in_layer  # heads of a unit

    def heads_of(units: Iterable[Head]) -> tuple[Head, ...]:
        return tuple(Head(layer, unit * size + i) for layer, unit in units for i in range(size))

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


def _overlap_with_base(
    conflicts: ConflictSession,
    cases: Sequence[ConflictCase],
    settings: LocateSettings,
    ranking: Ranking,
) -> dict[str, float] | None:
    """The share of the ten best heads that the unedited base ranks among its ten best too."""
    from editors.conflicts.locate import TOP, locate
    from editors.inference.edited_model import EditedModel

    if not conflicts.state.in_force():
        return None
    unedited_cases = [
        replace(c, memory=c.pre_edit_answer or c.memory, fact=None, pre_edit_answer=None)
        for c in cases
    ]
    try:
        on_base = locate(EditedModel.unedited(conflicts.session.base), unedited_cases, settings)
    except EditorError:
        return None  # the unedited base answers all rows from one source
    sources: tuple[Source, ...] = ("memory", "context")
    return {s: len({*ranking.top(s, TOP)} & {*on_base.top(s, TOP)}) / TOP for s in sources}


def _test(
    attached: AbstractContextManager[EditedModel],
    cases: Sequence[ConflictCase],
    battery: Battery,
    texts: Sequence[str],
) -> tuple[ConflictResults, dict[str, float], torch.Tensor]:
    from editors.conflicts.locality import by_answer, next_tokens
    from editors.conflicts.measure import measure

    with attached as model:
        measured = measure(model, cases)
        scores = battery.scores(model, by_answer)
        following = next_tokens(model, texts)
    scores["other"] = measured.conflicting.rates.other.value
    return measured, scores, following
