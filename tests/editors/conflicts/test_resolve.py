"""Which heads are pruned: chosen on dev, by the gain less what else is lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pruned_heads import pruned

from editors import EditorError
from editors.conflicts.cases import Conflict, ConflictCase
from editors.conflicts.locality import LIMITS, Battery
from editors.conflicts.locate import LocateSettings, Ranking
from editors.conflicts.resolve import GRID, PENALTY, DevSplit, Losses, Trial, choose
from editors.heads.pruning import Head, HeadMask
from editors.inference.edited_model import EditedModel
from editors.inference.next_tokens import likeliest

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


class WrittenDev:
    """A dev split on which every set of heads has a rate and losses that a test wrote down: only
    the choice is tested with it."""

    def __init__(
        self,
        rate: Callable[[Heads], float],
        lost: Callable[[Heads], Mapping[str, float]] = lambda heads: {"facts": 0.0},
        error: float = 0.0,
    ) -> None:
        self._rate, self._lost, self._error = rate, lost, error

    def error(self, one: Heads, other: Heads) -> float:
        return self._error

    def trial(self, heads: Heads, rule: Any) -> Trial:
        rate = self._rate(heads)
        return Trial(heads, rule, rate, rate - 0.2, self._lost(heads))

    def alone(self, head: Head) -> Trial:
        return self.trial((head,), "screened")


def chosen(
    dev: WrittenDev, prefer: Any = "memory", heads: int | None = None, of: Ranking = BOTH
) -> Any:
    return choose(dev, of, prefer, heads)  # type: ignore[arg-type]


# --- candidates -------------------------------------------------------------------------------


@pytest.mark.parametrize(("prefer", "source"), [("memory", "context"), ("context", "memory")])
def test_to_prefer_one_source_heads_of_the_other_are_pruned(prefer: Any, source: Any) -> None:
    choice = chosen(WrittenDev(len), prefer)
    best = BOTH.top(source, 12)
    for trial in choice.trials:
        if trial.rule == "top_k":
            assert list(trial.heads) == best[: len(trial.heads)]
    sizes = sorted(len(t.heads) for t in choice.trials if t.rule == "top_k")
    assert sizes == list(GRID)


def test_heads_that_the_other_ranking_has_too_are_not_in_the_exclusive_list() -> None:
    both = ranking([9.0, 1.0, 8.0, 2.0], [9.0, 8.0, 1.0, 7.0])
    choice = chosen(WrittenDev(len), of=both)
    exclusive = {t.heads for t in choice.trials if t.rule == "exclusive"}
    assert (Head(0, 1),) in exclusive, "the best two of either are 0.0, 0.1 and 0.0, 0.2"
    assert all(Head(0, 0) not in heads for heads in exclusive)


def test_heads_that_cost_too_much_alone_are_not_in_the_screened_list() -> None:
    def lost(heads: Heads) -> dict[str, float]:
        return {"facts": LIMITS["facts"] * (0.6 if Head(0, 0) in heads else 0.1), "other": 9.0}

    choice = chosen(WrittenDev(len, lost))
    screened = [t.heads for t in choice.trials if t.rule == "screened"]
    assert screened, "what answers become is no cost of a single head"
    assert all(Head(0, 0) not in heads for heads in screened)


def test_one_list_has_them_by_what_each_is_worth_alone() -> None:
    best = [Head(1, 1), Head(0, 2), Head(2, 0)]
    gains = {(head,): 0.9 - 0.1 * number for number, head in enumerate(best)}
    choice = chosen(WrittenDev(lambda heads: gains.get(heads, 0.3)))
    by_value = {len(t.heads): t.heads for t in choice.trials if t.rule == "by_value"}
    assert by_value[3] == tuple(best)
    assert by_value[2] == tuple(best[:2])


def test_no_set_is_tried_twice_and_none_is_empty() -> None:
    choice = chosen(WrittenDev(len))
    sets = [frozenset(t.heads) for t in choice.trials]
    assert len(sets) == len(set(sets))
    assert all(sets)


def test_a_number_of_heads_that_is_given_is_the_only_one() -> None:
    assert {len(t.heads) for t in chosen(WrittenDev(len), heads=5).trials} == {5}
    many = ranking([*RISING, *RISING], [*FALLING, *FALLING])
    assert {len(t.heads) for t in chosen(WrittenDev(len), heads=20, of=many).trials} == {20}


def test_where_not_enough_heads_have_a_score_there_is_nothing_to_prune() -> None:
    nothing = ranking([0.0] * 4, [-1.0] * 4)
    three = ranking([3.0, 2.0, 1.0, 0.0], [3.0, 2.0, 1.0, 0.0])
    for prefer in ("memory", "context"):
        for of, heads in ((nothing, None), (nothing, 1), (three, 4)):
            with pytest.raises(EditorError, match="not as many heads with a score above 0"):
                chosen(WrittenDev(len), prefer, heads, of=of)


# --- the choice -------------------------------------------------------------------------------


def by_size(rates: Mapping[int, float]) -> Callable[[Heads], float]:
    return lambda heads: rates.get(len(heads), 0.0)


def test_the_best_set_wins_where_nothing_is_as_good() -> None:
    choice = chosen(WrittenDev(by_size({1: 0.3, 4: 0.9, 8: 0.5})))
    assert len(choice.chosen.heads) == 4
    assert choice.chosen in choice.trials


def test_of_sets_within_one_standard_error_the_smallest_wins() -> None:
    rates = {1: 0.3, 2: 0.62, 4: 0.66, 8: 0.7}
    for error, size in ((0.01, 8), (0.05, 4), (0.09, 2), (0.5, 1)):
        assert len(chosen(WrittenDev(by_size(rates), error=error)).chosen.heads) == size


def test_of_equally_small_sets_the_better_wins() -> None:
    best = Head(0, 3)
    both = ranking([9.0, 1.0, 8.0, 2.0], [9.0, 8.0, 1.0, 7.0])
    choice = chosen(WrittenDev(lambda heads: 0.5 + 0.1 * (best in heads), error=1.0), of=both)
    ones = [t for t in choice.trials if len(t.heads) == 1]
    assert choice.chosen == max(ones, key=lambda t: t.value)


def test_a_set_beyond_a_limit_is_not_chosen_however_good() -> None:
    def lost(heads: Heads) -> dict[str, float]:
        return {"gold": 2 * LIMITS["gold"] if len(heads) > 2 else 0.0}

    choice = chosen(WrittenDev(by_size({1: 0.3, 2: 0.4, 12: 1.0}), lost))
    assert len(choice.chosen.heads) == 2
    assert max(choice.trials, key=lambda t: t.gain).fits is False


def test_where_every_set_is_beyond_a_limit_the_best_of_all_is_chosen() -> None:
    choice = chosen(
        WrittenDev(by_size({1: 0.3, 6: 0.9}), lambda heads: {"gold": 2 * LIMITS["gold"]})
    )
    assert not choice.chosen.fits
    assert len(choice.chosen.heads) == 6


@given(
    st.dictionaries(st.sampled_from(GRID), st.floats(0, 1)),
    st.dictionaries(st.sampled_from(GRID), st.floats(-0.1, 0.1)),
    st.floats(0, 0.2),
)
def test_nothing_within_the_limits_is_better_by_more_than_the_error(
    rates: dict[int, float], lost: dict[int, float], error: float
) -> None:
    choice = chosen(
        WrittenDev(by_size(rates), lambda heads: {"facts": lost.get(len(heads), 0.0)}, error)
    )
    fitting = [t for t in choice.trials if t.fits] or list(choice.trials)
    assert choice.chosen in fitting
    assert all(t.value <= choice.chosen.value + error + 1e-9 for t in fitting)


def test_losses_cost_and_gains_elsewhere_do_not_pay() -> None:
    def value(lost: dict[str, float]) -> float:
        return Trial((Head(0, 0),), "top_k", 0.5, 0.3, lost).value

    assert value({"facts": 0.0, "gold": 0.0}) == pytest.approx(0.3)
    assert value({"facts": LIMITS["facts"]}) == pytest.approx(0.3 - PENALTY)
    assert value({"facts": LIMITS["facts"] / 2, "gold": 2 * LIMITS["gold"]}) == pytest.approx(
        0.3 - 2.5 * PENALTY
    )
    assert value({"facts": -5.0}) == pytest.approx(0.3)
    assert value({"neutral": math.inf}) == -math.inf


# --- what the choice needs ----------------------------------------------------------------------


class CountingDev(WrittenDev):
    """Checks run when they are looked up, and are noted."""

    def __init__(
        self,
        rate: Callable[[Heads], float],
        lost: Callable[[Heads], Mapping[str, float]],
        error: float = 0.0,
    ) -> None:
        super().__init__(rate, lost, error)
        self.ran: list[tuple[Heads, str]] = []

    def trial(self, heads: Heads, rule: Any) -> Trial:
        lost = self._lost(heads)

        def run(check: str) -> float:
            self.ran.append((heads, check))
            return lost[check]

        return replace(super().trial(heads, rule), lost=Losses([*lost], run))


def exhaustive(dev: WrittenDev, choice: Any) -> Trial:
    """The choice among the same sets with every check of every set."""
    trials = [dev.trial(trial.heads, trial.rule) for trial in choice.trials]
    allowed = [trial for trial in trials if trial.fits] or trials
    best = max(allowed, key=lambda trial: trial.value)
    near = [t for t in allowed if t.value >= best.value - dev.error(best.heads, t.heads)]
    return min(near, key=lambda t: (len(t.heads), -t.value))


@given(
    st.dictionaries(st.sampled_from(GRID), st.floats(0, 0.9)),
    st.dictionaries(st.sampled_from(GRID), st.floats(-0.02, 0.04)),
    st.floats(0, 0.2),
)
def test_checks_that_do_not_run_would_not_change_the_choice(
    rates: dict[int, float], losses: dict[int, float], error: float
) -> None:
    def rate(heads: Heads) -> float:
        return rates.get(len(heads), 0.1) + 0.001 * heads[0].head

    def lost(heads: Heads) -> dict[str, float]:
        return dict.fromkeys(("copying", "facts"), losses.get(len(heads), 0.0))

    choice = chosen(CountingDev(rate, lost, error))
    assert choice.chosen.heads == exhaustive(WrittenDev(rate, lost, error), choice).heads
    assert choice.chosen.complete
    assert dict(choice.chosen.lost) == lost(choice.chosen.heads)


def test_checks_run_only_where_the_gain_leaves_the_choice_open() -> None:
    dev = CountingDev(by_size({2: 0.9, 4: 0.6}), lambda heads: {"copying": 0.0, "facts": 0.0})
    choice = chosen(dev, heads=None)
    pairs = {heads for heads, _ in dev.ran if len(heads) > 1}
    assert {len(heads) for heads in pairs} == {2}
    unneeded = [trial for trial in choice.trials if len(trial.heads) == 4]
    assert unneeded
    assert all(not trial.complete and trial.lost == {} for trial in unneeded)


def test_a_check_beyond_its_limit_is_the_last_one_that_runs() -> None:
    dev = CountingDev(
        by_size({2: 0.5, 4: 0.9}),
        lambda heads: {"copying": 1.0 if len(heads) > 2 else 0.0, "facts": 0.0},
    )
    assert len(chosen(dev).chosen.heads) == 2
    assert {check for heads, check in dev.ran if len(heads) > 2} == {"copying"}


def test_single_heads_are_not_pruned_where_there_is_nothing_left_to_gain() -> None:
    lost = {"copying": 0.0}
    perfect = CountingDev(by_size({4: 1.0}), lambda heads: lost)
    choice = chosen(perfect)
    assert len(choice.chosen.heads) == 4
    assert {trial.rule for trial in choice.trials} <= {"top_k", "exclusive"}
    good = chosen(CountingDev(by_size({4: 0.9}), lambda heads: lost), of=ranking(FALLING, FALLING))
    assert len(good.chosen.heads) == 4


# --- the dev split ----------------------------------------------------------------------------


def dev_cases(base: Any) -> list[ConflictCase]:
    """Six rows that the base answers from memory, from the passage and from neither, in turn."""
    model, cases = EditedModel.unedited(base), []
    subjects = ("Kenya", "Spain", "Italy", "Egypt", "Peru", "Japan")
    for number, subject in enumerate(subjects):
        row = Conflict(f"the sea of {subject} is", f"the sea of {subject} is red .", "red")
        [word] = words_after(model, [row.prompt])
        memory, context = ((word, "a"), ("a", word), ("a", "the"))[number % 3]
        cases.append(ConflictCase(replace(row, context_answer=context), memory))
    return cases


def words_after(model: EditedModel, prompts: Sequence[str]) -> list[str]:
    """The likeliest next word after each prompt."""
    return [model.base.tokenizer.decode([token]) for token in likeliest(model, prompts)]


def dev_split(
    base: Any,
    cases: Sequence[ConflictCase],
    prefer: Any = "memory",
    seen: list[Heads] | None = None,
) -> DevSplit:
    """``seen``: the sets of heads that are pruned are added to it."""

    def attach(heads: Heads) -> AbstractContextManager[EditedModel]:
        if seen is not None:
            seen.append(heads)
        return pruned(base, HeadMask(heads))

    battery = Battery.of(cases, [], ["Ann works in Oslo ."])
    return DevSplit(base, attach, cases, battery, prefer)


@pytest.mark.parametrize("prefer", ["memory", "context"])
def test_the_start_is_the_base_without_pruned_heads(tiny_base: BaseOf, prefer: Any) -> None:
    base = tiny_base("llama")
    cases = dev_cases(base)
    gold = replace(cases[2], row=replace(cases[2].row, kind="gold"))
    dev = dev_split(base, [*cases, gold], prefer)
    assert dev.start == pytest.approx(1 / 3), "rows that show no conflict do not count"
    assert dev.error((), ()) == 0.0
    nothing = dev.trial((), "top_k")
    assert nothing.gain == 0.0
    assert set(nothing.lost.values()) == {0.0}
    assert "other" in nothing.lost


def test_a_trial_is_what_the_pruned_base_does(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    cases = dev_cases(base)
    heads = (Head(1, 3), Head(0, 0))
    trial = dev_split(base, cases).trial(heads, "top_k")
    with pruned(base, HeadMask(heads)) as model:
        words = words_after(model, [case.row.prompt for case in cases])
    from_memory = [word == case.memory for word, case in zip(words, cases, strict=True)]
    assert trial.rate == pytest.approx(sum(from_memory) / len(cases))
    assert trial.gain == pytest.approx(trial.rate - 1 / 3)
    neither = [
        word not in (case.memory, case.row.context_answer)
        for word, case in zip(words, cases, strict=True)
    ]
    assert trial.lost["other"] == pytest.approx((sum(neither) - 2) / len(cases))


def test_states_below_the_heads_are_reused_and_change_nothing(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    battery = Battery.of(dev_cases(base), [], ["Ann works in Oslo .", "the sea is red ."])

    def dev(layers: Sequence[int]) -> DevSplit:
        def attach(heads: Heads) -> AbstractContextManager[EditedModel]:
            return pruned(base, HeadMask(heads))

        return DevSplit(base, attach, dev_cases(base), battery, "memory", layers)

    whole, replayed, ran = dev(()), dev((1, 2)), []
    first = base.model.get_submodule(base.architecture.block(0).path)
    with first.register_forward_hook(lambda *_: ran.append(0)):
        for heads in ((Head(2, 0),), (Head(1, 3), Head(2, 1)), (Head(2, 2), Head(2, 3))):
            ran.clear()
            again = replayed.trial(heads, "top_k")
            lost = dict(again.lost)
            assert bool(ran) == (heads == (Head(2, 0),)), "the first set is run from the start"
            expected = whole.trial(heads, "top_k")
            assert again.rate == expected.rate
            assert lost == pytest.approx(dict(expected.lost), abs=1e-6)


def test_a_set_of_heads_is_measured_once_in_whatever_order(tiny_base: BaseOf) -> None:
    base, seen = tiny_base("llama"), []
    dev = dev_split(base, dev_cases(base), seen=seen)
    one = dev.trial((Head(0, 0), Head(1, 3)), "top_k")
    other = dev.trial((Head(1, 3), Head(0, 0)), "screened")
    assert (one.rate, dict(one.lost)) == (other.rate, dict(other.lost))
    checks = len(one.lost) - 1  # the rows tell how many answers are from neither source
    assert sorted(map(len, seen)) == [0] * (1 + checks) + [2] * (1 + checks)


def test_the_error_is_that_of_the_paired_difference(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    cases = dev_cases(base)
    dev = dev_split(base, cases)
    heads = (Head(0, 0), Head(0, 1), Head(1, 1), Head(1, 3))
    memory = [case.memory for case in cases]
    prompts = [case.row.prompt for case in cases]
    before = words_after(EditedModel.unedited(base), prompts)
    with pruned(base, HeadMask(heads)) as model:
        after = words_after(model, prompts)
    moved = [
        float(new == wanted) - float(old == wanted)
        for old, new, wanted in zip(before, after, memory, strict=True)
    ]
    mean = sum(moved) / len(moved)
    variance = sum((change - mean) ** 2 for change in moved) / len(moved)
    assert variance > 0, "or the test says nothing"
    assert dev.error((), heads) == pytest.approx(math.sqrt(variance / len(moved)))


def test_the_choice_depends_on_the_dev_rows_not_on_their_order(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    cases = dev_cases(base)
    choices = [
        choose(dev_split(base, some), BOTH, "context", None) for some in (cases, cases[::-1], cases)
    ]
    assert choices[0].chosen.heads == choices[1].chosen.heads
    assert choices[0] == choices[2]


def test_without_a_conflict_on_dev_nothing_is_chosen(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    calm = [replace(case, row=replace(case.row, kind="irrelevant")) for case in dev_cases(base)]
    with pytest.raises(EditorError, match="no dev row shows a conflict"):
        dev_split(base, calm)
