"""Sampled answers, their meanings, and the measures of DynamicQA by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_configs import EDITABLE, EOS
from tiny_edits import FRANCE, edit
from tiny_models import quick_first

from editors import EditorError
from editors.conflicts.uncertainty import (
    Sample,
    Uncertainty,
    cluster_entropy,
    clusters,
    coherent_persuasion,
    same_answer,
    samples,
    semantic_entropy,
)
from editors.inference.edited_model import EditedModel
from editors.inference.generation import answers
from editors.model.tokenization import encode_prompt

BaseOf = Callable[..., Any]
PROMPTS = ("the capital of France is", "Ann", "who plays the piano ?")
COUNT, LONGEST = 8, 20

# Two words, and how likely each is: the answers of a model with a vocabulary of two.
SURE, TORN = torch.tensor([0.9, 0.1]), torch.tensor([0.4, 0.6])


def sample(text: str, distribution: torch.Tensor, score: float = -1.0) -> Sample:
    return Sample(text, score, distribution)


def unedited(base: Any) -> EditedModel:
    return EditedModel.unedited(base)


def plain(drawn: Sequence[Sample]) -> list[tuple[str, float, list[float]]]:
    """Samples as values that can be compared."""
    return [(one.text, one.score, one.distribution.tolist()) for one in drawn]


# --- samples --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", quick_first([*EDITABLE, "qwen3_5_text"]))
def test_scores_and_distributions_are_those_of_a_whole_forward(
    tiny_base: BaseOf, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    base, columns = tiny_base(family), []
    multinomial = torch.multinomial

    def noting(*args: Any, **kwargs: Any) -> torch.Tensor:
        columns.append(multinomial(*args, **kwargs))
        return columns[-1]

    monkeypatch.setattr(torch, "multinomial", noting)
    [drawn] = samples(unedited(base), PROMPTS[:1], 40, LONGEST, temperature=1.0)
    tokens = torch.cat(columns, 1).tolist()
    head = encode_prompt(base.tokenizer, PROMPTS[0])
    stopped = 0
    for one, row in zip(drawn, tokens, strict=True):
        stopped += EOS in row
        tail = row[: row.index(EOS) + 1] if EOS in row else row
        with torch.no_grad():
            logits = base.model(input_ids=torch.tensor([[*head, *tail]])).logits[0]
        logs = logits[len(head) - 1 : -1].double().log_softmax(-1)  # [tail, vocab]
        likelihoods = logs.gather(1, torch.tensor(tail)[:, None])
        assert one.score == pytest.approx(float(likelihoods.mean()), abs=1e-5)
        torch.testing.assert_close(
            one.distribution, logs.exp().mean(0).float(), atol=1e-6, rtol=1e-4
        )
        assert one.text == base.tokenizer.decode(tail, skip_special_tokens=True).strip()
    assert 0 < stopped < len(drawn), "some answers stop by themselves, some do not"


def test_the_draws_follow_the_temperature(tiny_base: BaseOf) -> None:
    base = tiny_base()
    ids = torch.tensor([encode_prompt(base.tokenizer, "Ann")])
    with torch.no_grad():
        likely = (base.model(input_ids=ids).logits[0, -1] / 0.5).softmax(-1)
    best = int(likely.argmax())
    [drawn] = samples(unedited(base), ["Ann"], 2000, 1, temperature=0.5)
    share = sum(one.text == base.tokenizer.decode([best]) for one in drawn) / len(drawn)
    assert share == pytest.approx(float(likely[best]), abs=0.05)


def test_a_prompt_is_sampled_alike_in_any_company(tiny_base: BaseOf) -> None:
    model = unedited(tiny_base())
    together = samples(model, PROMPTS, COUNT, LONGEST)
    torch.manual_seed(7)
    again = samples(model, PROMPTS[::-1], COUNT, LONGEST)[::-1]
    alone = [samples(model, [prompt], COUNT, LONGEST)[0] for prompt in PROMPTS]
    assert [plain(s) for s in together] == [plain(s) for s in again] == [plain(s) for s in alone]
    assert all(len(drawn) == COUNT for drawn in together)


def test_another_seed_draws_other_samples(tiny_base: BaseOf) -> None:
    model = unedited(tiny_base())
    [one], [other] = (samples(model, ["Ann"], COUNT, LONGEST, seed=seed) for seed in (0, 1))
    assert plain(one) != plain(other)


def test_sampling_leaves_the_global_random_state_alone(tiny_base: BaseOf) -> None:
    before = torch.random.get_rng_state()
    samples(unedited(tiny_base()), ["Ann"], 2, 3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_without_temperature_samples_are_greedy_answers(tiny_base: BaseOf) -> None:
    model = unedited(tiny_base())
    drawn = samples(model, PROMPTS, 3, LONGEST, temperature=1e-6)
    greedy = answers(model, PROMPTS, LONGEST)
    assert [[s.text for s in row] for row in drawn] == [[answer.text] * 3 for answer in greedy]


@pytest.mark.parametrize("name", ["wise", "ft-m"])
def test_samples_are_those_of_the_edited_model(tiny_method: Callable[..., Any], name: str) -> None:
    method = tiny_method(name)
    state = edit(method, [FRANCE]).state
    with method.attach(state) as model:
        [drawn] = samples(model, [FRANCE.prompt], 3, LONGEST, temperature=1e-6)
    assert [one.text for one in drawn] == [FRANCE.target] * 3


def test_a_rewritten_prompt_is_sampled_as_the_model_sees_it(
    tiny_method: Callable[..., Any],
) -> None:
    method = tiny_method("in-context")
    state = edit(method, [FRANCE]).state
    before = method.settings.before(FRANCE, FRANCE.prompt)
    with method.attach(state) as model:
        [drawn] = samples(model, [FRANCE.prompt], 3, LONGEST, temperature=1e-6)
    [answer] = answers(unedited(method.base), [before], LONGEST)
    assert [one.text for one in drawn] == [answer.text] * 3


def test_a_model_that_never_stops_has_all_its_tokens(tiny_base: BaseOf) -> None:
    [drawn] = samples(unedited(tiny_base(has_eos=False, has_pad=False)), ["Ann"], 2, 5)
    assert all(one.score < 0 for one in drawn)
    assert all(float(one.distribution.sum()) == pytest.approx(1) for one in drawn)


@pytest.mark.parametrize(
    ("count", "longest", "temperature"),
    [(0, 5, 0.5), (2, 0, 0.5), (2, 5, 0.0), (2, 5, -1.0), (2, 5, math.nan)],
)
def test_what_cannot_be_drawn(
    tiny_base: BaseOf, count: int, longest: int, temperature: float
) -> None:
    with pytest.raises(EditorError, match="cannot be drawn"):
        samples(unedited(tiny_base()), ["Ann"], count, longest, temperature)


# --- meanings -------------------------------------------------------------------------------


def test_answers_are_the_same_but_for_case_space_and_closing_marks() -> None:
    pairs = [("Paris.", " paris"), ("Paris", "Rome"), ("", "")]
    assert same_answer(pairs) == [True, False, True]
    assert same_answer([]) == []


def near(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Lengths that differ by at most one: symmetric, not transitive."""
    return [abs(len(premise) - len(hypothesis)) <= 1 for premise, hypothesis in pairs]


def test_clusters_are_compared_by_their_first_member_only() -> None:
    """b is near a and c, but c is not near a; gathered around every text, b would lie in two."""
    a, b, c = "x", "xx", "xxx"
    assert clusters([a, b, c], near) == [[0, 1], [2]]
    assert clusters([b, a, c], near) == [[0, 1, 2]]
    assert clusters([a, c, b], near) == [[0, 2], [1]]


def test_entailment_must_go_both_ways() -> None:
    def part_of(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        return [hypothesis in premise for premise, hypothesis in pairs]

    assert clusters(["Paris, France", "Paris", "Paris"], part_of) == [[0], [1, 2]]
    assert clusters(["Paris", "Paris, France"], part_of) == [[0], [1]]
    assert clusters([], part_of) == []


@given(st.lists(st.text("x", max_size=5), max_size=12))
def test_clusters_are_a_partition(texts: list[str]) -> None:
    parts = clusters(texts, near)
    assert sorted(i for part in parts for i in part) == list(range(len(texts)))
    assert [part[0] for part in parts] == sorted(part[0] for part in parts)
    assert all(near([(texts[part[0]], texts[i])])[0] for part in parts for i in part)


# --- entropies ------------------------------------------------------------------------------


def test_semantic_entropy_by_hand() -> None:
    """Masses 1/2 + 1/4 and 1/8: 5 less the mean of ln 3/4 and ln 1/8."""
    scores = [math.log(p) for p in (1 / 2, 1 / 8, 1 / 4)]
    wanted = 5 - (math.log(3 / 4) + math.log(1 / 8)) / 2
    assert semantic_entropy(scores, [[0, 2], [1]]) == pytest.approx(wanted)
    assert semantic_entropy([-2.0], [[0]]) == pytest.approx(7)
    assert semantic_entropy([-2000.0, -2000.0], [[0, 1]]) == pytest.approx(2005 - math.log(2))


def test_semantic_entropy_knows_no_order_of_samples() -> None:
    drawn = [("Paris", -0.5), ("Rome", -3.0), ("paris.", -0.9), ("Oslo", -2.0), ("Rome", -1.0)]
    entropies = {
        round(semantic_entropy([score for _, score in order], parts), 12)
        for order in permutations(drawn)
        for parts in [clusters([text for text, _ in order], same_answer)]
    }
    assert len(entropies) == 1


def test_cluster_entropy_by_hand() -> None:
    assert cluster_entropy([[0, 1, 2]]) == 0
    assert cluster_entropy([[0, 3], [1, 2]]) == pytest.approx(math.log(2))
    thirds = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert cluster_entropy([[0, 2], [1]]) == pytest.approx(thirds)


# --- persuasion -----------------------------------------------------------------------------


def test_coherent_persuasion_by_hand() -> None:
    """The mean over both pairs; the smoothing is below what is compared."""
    to_even = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    to_torn = 0.9 * math.log(0.9 / 0.4) + 0.1 * math.log(0.1 / 0.6)
    moved = coherent_persuasion([SURE], [torch.tensor([0.5, 0.5]), TORN])
    assert moved == pytest.approx((to_even + to_torn) / 2, abs=1e-5)
    assert coherent_persuasion([SURE], [TORN]) != coherent_persuasion([TORN], [SURE])


def test_what_never_happens_without_the_context_is_no_infinite_persuasion() -> None:
    here, there = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert coherent_persuasion([here], [there]) == pytest.approx(math.log(2 / 1e-6))


def test_identical_sets_persuade_only_if_they_have_several_meanings() -> None:
    """And the control takes out what is not the context's doing."""
    one = [sample("Paris", SURE), sample("paris.", SURE)]
    two = [sample("Paris", SURE), sample("Rome", TORN)]
    of_one = Uncertainty.of(one, one, one, same_answer)
    assert of_one.coherent_persuasion == pytest.approx(0, abs=1e-5)
    of_two = Uncertainty.of(two, two, two, same_answer)
    between = coherent_persuasion([SURE], [TORN]) + coherent_persuasion([TORN], [SURE])
    assert of_two.coherent_persuasion == pytest.approx(between / 4, abs=1e-5)
    assert of_two.coherent_persuasion > 0.2
    assert of_two.coherent_persuasion_net == 0


def test_a_cluster_is_the_mean_of_its_members() -> None:
    several = [sample("Rome", SURE), sample("Rome.", TORN)]
    without = [sample("Paris", TORN)]
    moved = Uncertainty.of(several, without, without, same_answer)
    wanted = coherent_persuasion([(SURE + TORN) / 2], [TORN])
    assert moved.coherent_persuasion == pytest.approx(wanted)
    assert moved.coherent_persuasion_control == pytest.approx(0, abs=1e-5)


def test_the_control_is_the_second_set_against_the_first() -> None:
    with_context = [sample("Rome", SURE)]
    without = [sample("Paris", TORN)]
    control = [sample("Paris", torch.tensor([0.5, 0.5]))]
    moved = Uncertainty.of(with_context, without, control, same_answer)
    raw = coherent_persuasion([SURE], [TORN])
    again = coherent_persuasion([torch.tensor([0.5, 0.5])], [TORN])
    assert moved.coherent_persuasion == pytest.approx(raw)
    assert moved.coherent_persuasion_control == pytest.approx(again)
    assert moved.coherent_persuasion_net == pytest.approx(raw - again)


def test_a_row_has_every_measure() -> None:
    with_context = [sample("Rome", SURE, -1.0), sample("rome", SURE, -1.0)]
    without = [sample("Paris", TORN, -2.0), sample("Oslo", TORN, -4.0)]
    measures = Uncertainty.of(with_context, without, without, same_answer)
    assert measures.semantic_entropy == pytest.approx(8)
    assert measures.semantic_entropy_with_context == pytest.approx(6 - math.log(2))
    assert measures.cluster_entropy == pytest.approx(math.log(2))
    assert measures.cluster_entropy_with_context == 0
    assert measures.coherent_persuasion == pytest.approx(coherent_persuasion([SURE], [TORN, TORN]))


def test_a_row_of_a_model(tiny_base: BaseOf) -> None:
    """The sets as `samples` gives them, end to end."""
    model = unedited(tiny_base())
    prompts = ("the capital of France is Rome . the capital of France is", PROMPTS[0])
    (with_context, without), (_, control) = (samples(model, prompts, 6, 2, seed=s) for s in (0, 1))
    measures = Uncertainty.of(with_context, without, control, same_answer)
    assert 0 <= measures.cluster_entropy <= math.log(6) + 1e-12
    assert math.isfinite(measures.coherent_persuasion_net)
    assert measures.semantic_entropy > 5
