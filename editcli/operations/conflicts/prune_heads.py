"""Resolving conflicts on a store: heads are ranked, chosen, and tested once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from editcli.cli.console import Output, Progress
from editcli.files.conflicts import ConflictFile
from editcli.operations.conflicts.records import finite, heads_record, results_record, trial_record
from editcli.operations.conflicts.session import ConflictSession
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
NEUTRAL_TEXTS = 100  # on the test split
DEV_ROWS = 200  # with a conflict, which tell the gain of a set of heads; CUB takes 198
DEV_PAIRS = 100  # of each check on the dev split
DEV_NEUTRAL_TEXTS = 40
RANKED_ROWS = 100  # of each source; PH3 ranks on 200 in all
REVERSIBLE_PROMPTS = 20  # whose logits are compared before and after pruning


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
    bar: Progress,
) -> PruningTest:
    """Rank on the locate split, choose on dev, measure on test; nothing stays attached.

    ``conflicts``: the edits without any pruned heads. ``bar``: moves with prompts, rows and checks.

    Raises:
        EditorError: no row shows a conflict, or the model has no separable heads.
    """
    from editors.conflicts.locality import LIMITS, Battery, beyond, divergence, drawn, losses
    from editors.conflicts.resolve import GRID, SCREENED, DevSplit, choose

    session = conflicts.session
    attach = partial(conflicts.attached_with, prefer=prefer)
    edits = conflicts.state.in_force()
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str, total: int | None = None, unit: str = "prompts") -> Iterator[None]:
        bar.stage(name, total, unit)
        started = time.monotonic()
        yield
        seconds[name] = round(time.monotonic() - started, 3)

    with stage("memory's answers"):
        locate_cases, dev_cases, test_cases = conflicts.splits(file, out, bar)
    with stage("ranking heads", unit="rows"):
        with conflicts.attached() as edited:
            ranking = _ranking(edited, locate_cases, locating, bar)
        overlap = _overlap_with_base(conflicts, locate_cases, locating, ranking, bar)
        with conflicts.attached():
            prompts = [case.row.prompt for case in locate_cases]
            masked = _masker(session, ranking, pruning, prompts)
    with stage("choosing heads", unit="checks"):
        # Rows of the locate split without a conflict are free for checks: no head was ranked on
        # them.
        agreeing = [case for case in locate_cases if not case.conflicting]
        battery = Battery.of([*dev_cases, *agreeing], edits, neutral[:DEV_NEUTRAL_TEXTS])
        conflicting = [case for case in dev_cases if case.conflicting]
        candidates = max(SCREENED, pruning.heads or GRID[-1])
        dev = DevSplit(
            session.base,
            lambda heads: attach(masked(heads)),
            drawn(conflicting, DEV_ROWS),
            battery.sample(DEV_PAIRS),
            prefer,
            {head.layer for head in ranking.top(_other(prefer), candidates)},
            bar.advance,
            with_edits=bool(edits),
        )
        choice = choose(dev, ranking, prefer, pruning.heads)
        mask = masked(choice.chosen.heads)
    texts = neutral[:NEUTRAL_TEXTS]
    battery = Battery.of(test_cases, edits, texts)
    test = _Test(test_cases, battery, texts, bar)
    with stage("testing", 2 * test.prompts):
        with attach(HeadMask()) as model:
            before, scores_before, next_before = test.measured(model)
        with conflicts.attached() as model:
            unpruned = test.unpruned(model)
        with attach(mask) as model:
            after, scores_after, next_after = test.measured(model)
        with conflicts.attached() as model:
            reversible = test.unpruned(model) == unpruned
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


def _ranking(
    model: EditedModel, cases: Sequence[ConflictCase], settings: LocateSettings, bar: Progress
) -> Ranking:
    """The ranking that heads are chosen from: no more rows than change it, and no joint score."""
    from editors.conflicts.locate import locate

    scores: tuple[Source, ...] = ("memory", "context")
    return locate(model, cases, settings, bar.advance, scores=scores, at_most=RANKED_ROWS)


def _other(source: Source) -> Source:
    return "context" if source == "memory" else "memory"


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
    bar: Progress,
) -> dict[str, float] | None:
    """The share of the ten best heads that the unedited base ranks among its ten best too."""
    from editors.conflicts.locate import TOP
    from editors.inference.edited_model import EditedModel

    if not conflicts.state.in_force():
        return None
    unedited_cases = [
        replace(c, memory=c.pre_edit_answer or c.memory, fact=None, pre_edit_answer=None)
        for c in cases
    ]
    try:
        on_base = _ranking(
            EditedModel.unedited(conflicts.session.base), unedited_cases, settings, bar
        )
    except EditorError:
        return None  # the unedited base answers all rows from one source
    sources: tuple[Source, ...] = ("memory", "context")
    return {s: len({*ranking.top(s, TOP)} & {*on_base.top(s, TOP)}) / TOP for s in sources}


@dataclass(frozen=True, slots=True)
class _Test:
    """What is measured on the test split. ``texts``: neutral ones; ``bar``: moves with prompts."""

    cases: Sequence[ConflictCase]
    battery: Battery
    texts: Sequence[str]
    bar: Progress

    @property
    def prompts(self) -> int:
        """The number of different prompts that a model is asked."""
        from editors.conflicts.measure import prompts_of

        informed, alone = prompts_of(self.cases)
        return len({*informed, *alone, *self.battery.prompts})

    def measured(
        self, model: EditedModel
    ) -> tuple[ConflictResults, dict[str, float], torch.Tensor]:
        """How the cases are answered, the score of each check, and the next-token distributions in
        the texts."""
        from editors.conflicts.locality import by_answer, next_tokens
        from editors.conflicts.measure import measure, sought_answers
        from editors.conflicts.replies import Replies

        sought = [*sought_answers(self.cases), *self.battery.expected]
        replies = Replies(model, sought, self.bar.advance)
        measured = measure(model, self.cases, replies=replies)
        scores = self.battery.scores(model, partial(by_answer, replies=replies))
        scores["other"] = measured.conflicting.rates.other.value
        return measured, scores, next_tokens(model, self.texts)

    def unpruned(self, model: EditedModel) -> list[bytes]:
        """Digests of logits, which are the same bit for bit as long as no head is pruned."""
        from editors.inference.next_tokens import digests

        prompts = [case.row.prompt for case in self.cases[:REVERSIBLE_PROMPTS]]
        return digests(model, prompts)
