"""Which heads are pruned: chosen on dev, by the gain less what else is lost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editors import EditorError
from editors.conflicts.cases import Asked, Conflict, next_probabilities
from editors.conflicts.locality import GATES, Battery
from editors.conflicts.locate import LocateSettings, Ranking
from editors.conflicts.resolve import GRID, PENALTY, DevSplit, Trial, choose
from editors.heads.head_mask import Head, HeadMask
from editors.inference.attach import attached
from editors.scope.base import MainRouter

BaseOf = Callable[..., Any]
Heads = tuple[Head, ...]
WIDTH = 4


def ranking(memory: Sequence[float], context: Sequence[float]) -> Ranking:
    """Scores of heads 0.0, 0.1 and so on, the same in each of three rows."""
    one, other = (
        torch.tensor(scores).view(-1, WIDTH, 1).expand(-1, WIDTH, 3) for scores in (memory, context)
    )
    return Ranking(one, other, one - other, 0, LocateSettings())


# The best context head is 0.0, then 0.1 and so on; of the memory heads the best is 2.3, then 2.2.
FALLING = [float(n) for n in range(12, 0, -1)]
RISING = FALLING[::-1]
BOTH = ranking(RISING, FALLING)


class Stub:
    """A dev split on which every set of heads has a rate and losses that a test wrote down."""

    def __init__(
        self,
        rate: Callable[[Heads], float],
        lost: Callable[[Heads], Mapping[str, float]] = lambda heads: {"facts": 0.0},
        error: float = 0.0,
    ) -> None:
        self._rate, self._lost, self._error = rate, lost, error
        self.tried: list[Heads] = []

    def error(self, one: Heads, other: Heads) -> float:
        return self._error

    def trial(self, heads: Heads, listing: Any) -> Trial:
        self.tried.append(heads)
        rate = self._rate(heads)
        return Trial(heads, listing, rate, rate - 0.2, self._lost(heads))


def chosen(stub: Stub, prefer: Any = "memory", heads: int | None = None, of: Ranking = BOTH) -> Any:
    return choose(stub, of, prefer, heads)  # type: ignore[arg-type]


# --- candidates -------------------------------------------------------------------------------


@pytest.mark.parametrize(("prefer", "pruned"), [("memory", "context"), ("context", "memory")])
def test_to_prefer_one_source_heads_of_the_other_are_pruned(prefer: Any, pruned: Any) -> None:
    choice = chosen(Stub(len), prefer)
    best = BOTH.top(pruned, 12)
    for trial in choice.trials:
        if trial.listing == "kind":
            assert list(trial.heads) == best[: len(trial.heads)]
    sizes = sorted(len(t.heads) for t in choice.trials if t.listing == "kind")
    assert sizes == list(GRID)


def test_heads_that_the_other_ranking_has_too_are_left_out_of_one_list() -> None:
    both = ranking([9.0, 1.0, 8.0, 2.0], [9.0, 8.0, 1.0, 7.0])
    choice = chosen(Stub(len), of=both)
    only = {t.heads for t in choice.trials if t.listing == "only"}
    assert (Head(0, 1),) in only, "the best two of either are 0.0, 0.1 and 0.0, 0.2"
    assert all(Head(0, 0) not in heads for heads in only)


def test_heads_that_cost_too_much_alone_are_left_out_of_one_list() -> None:
    def lost(heads: Heads) -> dict[str, float]:
        return {"facts": GATES["facts"] * (0.6 if Head(0, 0) in heads else 0.1), "other": 9.0}

    choice = chosen(Stub(len, lost))
    screened = [t.heads for t in choice.trials if t.listing == "screened"]
    assert screened, "what answers become is no cost of a single head"
    assert all(Head(0, 0) not in heads for heads in screened)


def test_one_list_has_them_by_what_each_is_worth_alone() -> None:
    by_worth = [Head(1, 1), Head(0, 2), Head(2, 0)]
    gains = {(head,): 0.9 - 0.1 * place for place, head in enumerate(by_worth)}
    choice = chosen(Stub(lambda heads: gains.get(heads, 0.3)))
    worth = {len(t.heads): t.heads for t in choice.trials if t.listing == "worth"}
    assert worth[3] == tuple(by_worth)
    assert worth[2] == tuple(by_worth[:2])


def test_no_set_is_tried_twice_and_none_is_empty() -> None:
    choice = chosen(Stub(len))
    sets = [frozenset(t.heads) for t in choice.trials]
    assert len(sets) == len(set(sets))
    assert all(sets)


def test_a_number_of_heads_that_is_given_is_the_only_one() -> None:
    choice = chosen(Stub(len, error=0.0), heads=5)
    assert {len(t.heads) for t in choice.trials if t.listing != "only"} == {5}
    assert all(len(t.heads) <= 5 for t in choice.trials)
    many = ranking([*RISING, *RISING], [*FALLING, *FALLING])
    assert max(len(t.heads) for t in chosen(Stub(len), heads=20, of=many).trials) == 20


def test_where_no_head_has_a_score_there_is_nothing_to_prune() -> None:
    nothing = ranking([0.0] * 4, [-1.0] * 4)
    for prefer in ("memory", "context"):
        with pytest.raises(EditorError, match="not as many heads with a score above 0"):
            chosen(Stub(len), prefer, of=nothing)


# --- the choice -------------------------------------------------------------------------------


def by_size(rates: Mapping[int, float]) -> Callable[[Heads], float]:
    return lambda heads: rates.get(len(heads), 0.0)


def test_the_best_set_wins_where_nothing_is_as_good() -> None:
    choice = chosen(Stub(by_size({1: 0.3, 4: 0.9, 8: 0.5})))
    assert len(choice.chosen.heads) == 4
    assert choice.chosen in choice.trials


def test_of_sets_within_one_standard_error_the_smallest_wins() -> None:
    rates = {1: 0.3, 2: 0.62, 4: 0.66, 8: 0.7}
    for error, size in ((0.01, 8), (0.05, 4), (0.09, 2), (0.5, 1)):
        assert len(chosen(Stub(by_size(rates), error=error)).chosen.heads) == size


def test_of_equally_small_sets_the_better_wins() -> None:
    best = Head(0, 3)
    both = ranking([9.0, 1.0, 8.0, 2.0], [9.0, 8.0, 1.0, 7.0])
    choice = chosen(Stub(lambda heads: 0.5 + 0.1 * (best in heads), error=1.0), of=both)
    ones = [t for t in choice.trials if len(t.heads) == 1]
    assert choice.chosen == max(ones, key=lambda t: t.value)


def test_a_set_beyond_a_gate_is_not_chosen_however_good() -> None:
    def lost(heads: Heads) -> dict[str, float]:
        return {"gold": 2 * GATES["gold"] if len(heads) > 2 else 0.0}

    choice = chosen(Stub(by_size({1: 0.3, 2: 0.4, 12: 1.0}), lost))
    assert len(choice.chosen.heads) == 2
    assert max(choice.trials, key=lambda t: t.gain).fits is False


def test_where_every_set_is_beyond_a_gate_the_best_of_all_is_chosen() -> None:
    choice = chosen(Stub(by_size({1: 0.3, 6: 0.9}), lambda heads: {"gold": 2 * GATES["gold"]}))
    assert not choice.chosen.fits
    assert len(choice.chosen.heads) == 6


@given(
    st.dictionaries(st.sampled_from(GRID), st.floats(0, 1)),
    st.dictionaries(st.sampled_from(GRID), st.floats(-0.1, 0.1)),
    st.floats(0, 0.2),
)
def test_nothing_within_the_gates_is_better_by_more_than_the_error(
    rates: dict[int, float], lost: dict[int, float], error: float
) -> None:
    choice = chosen(Stub(by_size(rates), lambda heads: {"facts": lost.get(len(heads), 0.0)}, error))
    fitting = [t for t in choice.trials if t.fits] or list(choice.trials)
    assert choice.chosen in fitting
    assert all(t.value <= choice.chosen.value + error + 1e-9 for t in fitting)


def test_losses_cost_and_gains_elsewhere_do_not_pay() -> None:
    def value(lost: dict[str, float]) -> float:
        return Trial((Head(0, 0),), "kind", 0.5, 0.3, lost).value

    assert value({"facts": 0.0, "gold": 0.0}) == pytest.approx(0.3)
    assert value({"facts": GATES["facts"]}) == pytest.approx(0.3 - PENALTY)
    assert value({"facts": GATES["facts"] / 2, "gold": 2 * GATES["gold"]}) == pytest.approx(
        0.3 - 2.5 * PENALTY
    )
    assert value({"facts": -5.0}) == pytest.approx(0.3)
    assert value({"neutral": math.inf}) == -math.inf


def test_a_trial_is_plain_json_whatever_was_lost() -> None:
    trial = Trial((Head(1, 2),), "kind", 0.5, 0.3, {"neutral": math.inf, "facts": 0.01})
    told = json.loads(json.dumps(trial.to_dict(), allow_nan=False))
    assert told["heads"] == [[1, 2]]
    assert told["lost"] == {"neutral": None, "facts": 0.01}
    assert (told["value"], told["fits"]) == (None, False)


# --- the dev split ----------------------------------------------------------------------------


def dev_rows(base: Any) -> list[Asked]:
    """Six rows that the base answers from memory, from the passage and from neither, in turn."""
    rows = []
    subjects = ("Kenya", "Spain", "Italy", "Egypt", "Peru", "Japan")
    for number, subject in enumerate(subjects):
        row = Conflict(f"the sea of {subject} is", f"the sea of {subject} is red .", "red")
        token = int(next_probabilities(base, [row.prompt])[0].argmax())
        said = base.tokenizer.decode([token])
        memory, context = ((said, "a"), ("a", said), ("a", "the"))[number % 3]
        rows.append(Asked(replace(row, context_answer=context), memory))
    return rows


def dev_split(
    base: Any, rows: Sequence[Asked], prefer: Any = "memory", seen: list[HeadMask] | None = None
) -> DevSplit:
    def attach(mask: HeadMask) -> AbstractContextManager[Any]:
        if seen is not None:
            seen.append(mask)
        return attached(base, [], MainRouter(), mask)

    battery = Battery.of(rows, [], ["Ann works in Oslo ."])
    return DevSplit(base, attach, rows, battery, prefer, HeadMask)


@pytest.mark.parametrize("prefer", ["memory", "context"])
def test_the_start_is_the_base_without_pruned_heads(tiny_base: BaseOf, prefer: Any) -> None:
    base = tiny_base("llama")
    rows = dev_rows(base)
    gold = replace(rows[2], row=replace(rows[2].row, kind="gold"))
    dev = dev_split(base, [*rows, gold], prefer)
    assert dev.start == pytest.approx(1 / 3), "rows that show no conflict do not count"
    assert dev.error((), ()) == 0.0
    nothing = dev.trial((), "kind")
    assert nothing.gain == 0.0
    assert set(nothing.lost.values()) == {0.0}
    assert "other" in nothing.lost


def test_a_trial_is_what_the_pruned_base_does(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    rows = dev_rows(base)
    heads = (Head(1, 3), Head(0, 0))
    trial = dev_split(base, rows).trial(heads, "kind")
    with HeadMask(heads).attached(base):
        guessed = next_probabilities(base, [a.row.prompt for a in rows]).argmax(-1).tolist()
    said = [base.tokenizer.decode([token]) for token in guessed]
    kept = sum(word == a.memory for word, a in zip(said, rows, strict=True))
    assert trial.rate == pytest.approx(kept / len(rows))
    assert trial.gain == pytest.approx(trial.rate - 1 / 3)
    neither = sum(
        word not in (a.memory, a.row.context_answer) for word, a in zip(said, rows, strict=True)
    )
    assert trial.lost["other"] == pytest.approx((neither - 2) / len(rows))


def test_a_set_of_heads_is_measured_once_in_whatever_order(tiny_base: BaseOf) -> None:
    base, seen = tiny_base("llama"), []
    dev = dev_split(base, dev_rows(base), seen=seen)
    one = dev.trial((Head(0, 0), Head(1, 3)), "kind")
    other = dev.trial((Head(1, 3), Head(0, 0)), "screened")
    assert (one.rate, one.lost) == (other.rate, other.lost)
    assert [len(mask.heads) for mask in seen] == [0, 2]


def test_the_choice_depends_on_the_dev_rows_not_on_their_order(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    rows = dev_rows(base)
    choices = [
        choose(dev_split(base, some), BOTH, "context", None) for some in (rows, rows[::-1], rows)
    ]
    assert choices[0].chosen.heads == choices[1].chosen.heads
    assert choices[0] == choices[2]


def test_without_a_conflict_on_dev_nothing_is_chosen(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    calm = [replace(a, row=replace(a.row, kind="irrelevant")) for a in dev_rows(base)]
    with pytest.raises(EditorError, match="no dev row shows a conflict"):
        dev_split(base, calm)
