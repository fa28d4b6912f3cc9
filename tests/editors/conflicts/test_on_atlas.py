"""Pruning heads on a model that knows facts and reads passages, the packaged atlas.

Property 8 of the method (PH3 section 7.1), in small: first tokens, few rows. Recall is spread over
more heads than reading is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from editcli.files.packaged import datasets_dir
from editors import EditorError
from editors.conflicts.cases import Asked, Conflict, Rates, next_probabilities, outcome_of_token
from editors.conflicts.locate import LocateSettings, Ranking, locate
from editors.heads.head_mask import Head, HeadMask

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
pytestmark = pytest.mark.skipif(MODEL is None, reason="datasets/atlas/model does not exist yet")


@pytest.fixture(scope="module")
def base() -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from editors.model.base_model import Base

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    return Base.of(model, AutoTokenizer.from_pretrained(MODEL))


def rows_of(split: str) -> list[Asked]:
    with (datasets_dir() / "atlas" / "conflicts.jsonl").open(encoding="utf-8") as file:
        rows = (Conflict.from_dict(json.loads(line)) for line in file)
        conflicting = (Asked(row, str(row.memory_answer)) for row in rows if row.split == split)
        return list(islice((a for a in conflicting if a.conflicting), ROWS))


@pytest.fixture(scope="module")
def ranking(base: Any) -> Ranking:
    return locate(base, rows_of("locate"), LocateSettings())


def rates(base: Any, rows: Sequence[Asked], heads: Sequence[Head] = ()) -> Rates:
    with HeadMask(tuple(heads)).attached(base):
        guessed = next_probabilities(base, [a.row.prompt for a in rows]).argmax(-1).tolist()
    return Rates.of([outcome_of_token(base, a, t) for a, t in zip(rows, guessed, strict=True)])


def beside(base: Any, heads: Sequence[Head], rng: Random) -> list[Head]:
    """As many other heads of the same layers."""
    found: list[Head] = []
    for layer in sorted({head.layer for head in heads}):
        others = [Head(layer, n) for n in range(base.architecture.n_heads)]
        others = [head for head in others if head not in heads]
        found += rng.sample(others, min(len(others), sum(h.layer == layer for h in heads)))
    return found


def draws(base: Any, rows: Sequence[Asked], heads: Sequence[Head]) -> list[Rates]:
    """With other heads of the same layers pruned, drawn several times."""
    rng = Random(0)
    sets = [frozenset(beside(base, heads, rng)) for _ in range(DRAWS)]
    known = {some: rates(base, rows, sorted(some)) for some in set(sets)}
    return [known[some] for some in sets]


def told(rates: Rates) -> str:
    return f"memory {rates.memory.value:.2f}, context {rates.context.value:.2f}"


def test_pruning_the_heads_of_one_source_makes_the_other_win(
    base: Any, ranking: Ranking, record_property: Any
) -> None:
    rows = rows_of("dev")
    before = rates(base, rows)
    assert before.memory.value > 0, "the rows are mixed"
    assert before.context.value > 0
    recallers, readers = (ranking.top(score, HEADS[score]) for score in ("memory", "context"))
    assert (len(recallers), len(readers)) == (8, 4)
    remembering, reading = rates(base, rows, readers), rates(base, rows, recallers)
    record_property("before", told(before))
    record_property("without context heads", told(remembering))
    record_property("without memory heads", told(reading))
    assert remembering.memory.value > before.memory.value
    assert remembering.context.value < before.context.value
    assert reading.context.value > before.context.value


@pytest.mark.parametrize("score", ["memory", "context"])
def test_other_heads_of_the_same_layers_matter_little(
    base: Any, ranking: Ranking, record_property: Any, score: Any
) -> None:
    """On average over draws: one draw may take a head that is nearly among the best."""
    rows, heads = rows_of("dev"), ranking.top(score, HEADS[score])
    before, drawn = rates(base, rows), draws(base, rows, heads)
    for name in ("memory", "context"):
        start = getattr(before, name)
        moved = sum(getattr(found, name).value for found in drawn) / DRAWS - start.value
        record_property(name, f"{start.value:.2f} moved by {moved:+.2f}")
        assert abs(moved) <= max(SLACK, (start.high - start.low) / 2)


@pytest.mark.parametrize(("score", "wins"), [("memory", "context"), ("context", "memory")])
def test_other_heads_of_the_same_layers_do_not_make_the_other_side_win(
    base: Any, ranking: Ranking, record_property: Any, score: Any, wins: str
) -> None:
    """Nor where they move it the other way."""
    rows, heads = rows_of("dev"), ranking.top(score, HEADS[score])
    before = getattr(rates(base, rows), wins)
    drawn = [getattr(found, wins).value for found in draws(base, rows, heads)]
    moved = sum(drawn) / DRAWS - before.value
    found = getattr(rates(base, rows, heads), wins).value - before.value
    record_property(wins, f"{before.value:.2f} moved by {moved:+.2f}, by the best {found:+.2f}")
    assert moved <= max(SLACK, (before.high - before.low) / 2) < found


def test_both_sides_have_several_heads_and_most_in_the_upper_half(
    base: Any, ranking: Ranking
) -> None:
    half = len(base.architecture.blocks) // 2
    for score in ("memory", "context"):
        best = ranking.top(score, 8)  # type: ignore[arg-type]
        assert sum(head.layer >= half for head in best) >= 6
        scores = [float(ranking.mean(score)[head]) for head in best]  # type: ignore[arg-type]
        assert scores[0] < 0.4 * sum(scores), "no head does it alone"
