"""Pruning heads on a model that knows facts and reads passages, the packaged atlas.

In small: first tokens, few rows. Recall is spread over more heads than reading is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from pruned_heads import pruned

from editcli.files.packaged import datasets_dir
from editors import EditorError
from editors.conflicts.cases import Conflict, ConflictCase
from editors.conflicts.locate import LocateSettings, Ranking, locate
from editors.conflicts.measure import Rates, candidate_tokens, first_outcomes
from editors.heads.pruning import Head, HeadMask
from editors.inference.edited_model import EditedModel

ROWS, DRAWS = 60, 3
HEADS = {"memory": 8, "context": 4}
SLACK = 0.12  # what heads without a part in it may move a rate by on so few rows


def folder() -> Path | None:
    """The folder of the packaged model, where there is one."""
    try:
        model = datasets_dir() / "atlas" / "model"
    except EditorError:
        return None
    return model if (model / "config.json").is_file() else None


MODEL = folder()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(MODEL is None, reason="datasets/atlas/model is missing"),
]


@pytest.fixture(scope="module")
def base() -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from editors.model.base_model import Base

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    return Base.of(model, AutoTokenizer.from_pretrained(MODEL))


def cases_of(split: str) -> list[ConflictCase]:
    with (datasets_dir() / "atlas" / "conflicts.jsonl").open(encoding="utf-8") as file:
        rows = (Conflict.from_dict(json.loads(line)) for line in file)
        cases = (ConflictCase(row, str(row.memory_answer)) for row in rows if row.split == split)
        return list(islice((case for case in cases if case.conflicting), ROWS))


@pytest.fixture(scope="module")
def ranking(base: Any) -> Ranking:
    return locate(EditedModel.unedited(base), cases_of("locate"), LocateSettings())


RatesOf = Callable[[Iterable[Head]], Rates]


@pytest.fixture(scope="module")
def rates(base: Any) -> RatesOf:
    """``rates(heads)``: whose answers the dev rows get with these heads pruned."""
    cases = cases_of("dev")
    candidates = candidate_tokens(base, cases)

    @cache
    def measured(heads: frozenset[Head]) -> Rates:
        with pruned(base, HeadMask(tuple(sorted(heads)))) as model:
            return Rates.of(first_outcomes(model, cases, candidates))

    return lambda heads: measured(frozenset(heads))


def beside(base: Any, heads: Sequence[Head], rng: Random) -> list[Head]:
    """As many other heads of the same layers."""
    others: list[Head] = []
    for layer in sorted({head.layer for head in heads}):
        free = [Head(layer, n) for n in range(base.architecture.n_heads)]
        free = [head for head in free if head not in heads]
        others += rng.sample(free, min(len(free), sum(h.layer == layer for h in heads)))
    return others


def draws(base: Any, rates: RatesOf, heads: Sequence[Head]) -> list[Rates]:
    """With other heads of the same layers pruned, drawn several times."""
    rng = Random(0)
    return [rates(beside(base, heads, rng)) for _ in range(DRAWS)]


def in_words(rates: Rates) -> str:
    return f"memory {rates.memory.value:.2f}, context {rates.context.value:.2f}"


def test_pruning_the_heads_of_one_source_makes_the_other_win(
    ranking: Ranking, rates: RatesOf, record_property: Any
) -> None:
    before = rates([])
    assert before.memory.value > 0, "the rows are mixed"
    assert before.context.value > 0
    recallers, readers = (ranking.top(score, HEADS[score]) for score in ("memory", "context"))
    assert (len(recallers), len(readers)) == (8, 4)
    remembering, reading = rates(readers), rates(recallers)
    record_property("before", in_words(before))
    record_property("without context heads", in_words(remembering))
    record_property("without memory heads", in_words(reading))
    assert remembering.memory.value > before.memory.value
    assert remembering.context.value < before.context.value
    assert reading.context.value > before.context.value


@pytest.mark.parametrize("score", ["memory", "context"])
def test_other_heads_of_the_same_layers_matter_little(
    base: Any, ranking: Ranking, rates: RatesOf, record_property: Any, score: Any
) -> None:
    """On average over draws: one draw may take a head that is nearly among the best."""
    before, drawn = rates([]), draws(base, rates, ranking.top(score, HEADS[score]))
    for name in ("memory", "context"):
        start = getattr(before, name)
        moved = sum(getattr(each, name).value for each in drawn) / DRAWS - start.value
        record_property(name, f"{start.value:.2f} moved by {moved:+.2f}")
        assert abs(moved) <= max(SLACK, (start.high - start.low) / 2)


@pytest.mark.parametrize(("score", "wins"), [("memory", "context"), ("context", "memory")])
def test_other_heads_of_the_same_layers_do_not_make_the_other_side_win(
    base: Any, ranking: Ranking, rates: RatesOf, record_property: Any, score: Any, wins: str
) -> None:
    """Nor where they move it the other way."""
    heads = ranking.top(score, HEADS[score])
    before = getattr(rates([]), wins)
    drawn = [getattr(each, wins).value for each in draws(base, rates, heads)]
    moved = sum(drawn) / DRAWS - before.value
    best = getattr(rates(heads), wins).value - before.value
    record_property(wins, f"{before.value:.2f} moved by {moved:+.2f}, by the best {best:+.2f}")
    assert moved <= max(SLACK, (before.high - before.low) / 2) < best


def test_both_sides_have_several_heads_and_most_in_the_upper_half(
    base: Any, ranking: Ranking
) -> None:
    half = len(base.architecture.blocks) // 2
    for score in ("memory", "context"):
        best = ranking.top(score, 8)  # type: ignore[arg-type]
        assert sum(head.layer >= half for head in best) >= 6
        scores = [float(ranking.mean(score)[head]) for head in best]  # type: ignore[arg-type]
        assert scores[0] < 0.4 * sum(scores), "no head does it alone"
