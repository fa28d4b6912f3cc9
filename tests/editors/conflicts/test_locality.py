"""What pruning must not cost: the battery, its scores, losses and limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pruned_heads import pruned
from tiny_edits import FRANCE

from editors import EditorError, Probe
from editors.conflicts.cases import Conflict, ConflictCase
from editors.conflicts.locality import (
    LIMITS,
    Battery,
    beyond,
    by_answer,
    by_first_token,
    copying,
    divergence,
    losses,
    neutral_loss,
    next_tokens,
)
from editors.heads.pruning import Head, HeadMask
from editors.inference.edited_model import EditedModel
from editors.inference.generation import answers
from editors.inference.next_tokens import distributions, likeliest
from editors.model.tokenization import encode_prompt

BaseOf = Callable[..., Any]
TEXTS = ["the sea of Kenya is red .", "Ann works in Oslo .", "Bob plays the violin and the piano"]
LONG = "the sea and the mountain " * 60


# --- losses and limits ------------------------------------------------------------------------


def test_a_loss_is_positive_where_a_score_gets_worse() -> None:
    before = dict.fromkeys(LIMITS, 0.5)
    worse = {name: 0.7 if name in ("neutral", "other") else 0.3 for name in LIMITS}
    assert losses(before, worse) == pytest.approx(dict.fromkeys(LIMITS, 0.2))
    assert losses(worse, before) == pytest.approx(dict.fromkeys(LIMITS, -0.2))
    assert losses(before, {"gold": 0.5, "something": 1.0}) == {"gold": 0.0}
    assert losses({"facts": 1.0}, before) == {"facts": 0.5}


def test_a_score_that_is_no_number_any_more_is_lost_altogether() -> None:
    lost = losses({"neutral": 2.0, "facts": 0.5}, {"neutral": math.nan, "facts": math.nan})
    assert lost == {"neutral": math.inf, "facts": math.inf}
    assert beyond(lost) == ["neutral", "facts"]


scores = st.fixed_dictionaries(dict.fromkeys(LIMITS, st.floats(0, 1)))


@given(scores)
def test_what_does_not_change_loses_nothing(same: dict[str, float]) -> None:
    assert beyond(losses(same, same)) == []


def test_a_limit_is_met_at_its_edge_and_not_beyond() -> None:
    assert beyond(LIMITS) == []
    over = {name: limit + 0.001 for name, limit in LIMITS.items()}
    assert beyond(over) == list(LIMITS)
    assert beyond({"other": 0.06, "gold": -1.0, "facts": 0.5}) == ["facts", "other"]
    assert beyond({}) == []


# --- the battery ------------------------------------------------------------------------------


def case_of(subject: str, answer: str, memory: str, **more: Any) -> ConflictCase:
    context = f"the sea of {subject} is {answer} ."
    row = Conflict(f"the sea of {subject} is", context, answer, subject=subject, **more)
    return ConflictCase(row, memory)


CONFLICTING = [
    case_of("Kenya", "red", "blue", relation="a"),
    case_of("Spain", "Rome", "Oslo", relation="b"),
    case_of("Peru", "Lima", "green", relation="b", kind="coherent"),
]


def test_without_rows_of_their_kind_gold_and_irrelevant_ones_are_made() -> None:
    pairs = Battery.of(CONFLICTING, [], TEXTS).pairs
    assert pairs["facts"] == [
        ("the sea of Kenya is", "blue"),
        ("the sea of Spain is", "Oslo"),
        ("the sea of Peru is", "green"),
    ]
    assert pairs["gold"] == [
        ("the sea of Kenya is blue . the sea of Kenya is", "blue"),
        ("the sea of Spain is Oslo . the sea of Spain is", "Oslo"),
        ("the sea of Peru is green . the sea of Peru is", "green"),
    ]
    kenya, spain, peru = pairs["irrelevant"]
    assert spain == ("the sea of Kenya is red . the sea of Spain is", "Oslo")
    assert peru == ("the sea of Kenya is red . the sea of Peru is", "green")
    assert kenya[0] in {f"{case.row.context} the sea of Kenya is" for case in CONFLICTING[1:]}
    assert set(pairs) == {"facts", "gold", "irrelevant"}
    assert pairs == Battery.of(CONFLICTING, [], TEXTS).pairs


def test_a_made_passage_never_names_the_answer_it_should_not() -> None:
    rows = [CONFLICTING[0], replace(CONFLICTING[1], memory="red")]
    pairs = Battery.of(rows, [], TEXTS).pairs
    assert [prompt for prompt, _ in pairs["irrelevant"]] == [
        "the sea of Spain is Rome . the sea of Kenya is"
    ]
    for context in ("nothing is claimed .", "the sea of Kenya is redder ."):  # no whole word "red"
        row = replace(CONFLICTING[0].row, context=context)
        assert "gold" not in Battery.of([replace(CONFLICTING[0], row=row)], [], TEXTS).pairs


def test_rows_of_their_kind_are_taken_where_there_are_some() -> None:
    gold = case_of("Italy", "Oslo", "Oslo", kind="gold")
    irrelevant = case_of("Egypt", "far", "Cairo", kind="irrelevant")
    pairs = Battery.of([*CONFLICTING, gold, irrelevant], [], TEXTS).pairs
    assert pairs["gold"] == [(gold.row.prompt, "Oslo")]
    assert pairs["irrelevant"] == [(irrelevant.row.prompt, "Cairo")]
    assert len(pairs["facts"]) == 5


def test_of_edits_only_their_own_prompts_are_checked_without_a_passage() -> None:
    edited = replace(CONFLICTING[0], fact="id", pre_edit_answer="Paris")
    fact = replace(
        FRANCE,
        rephrases=("which city leads France ?",),
        locality=(
            Probe("the sea of France is", "blue", "near"),
            Probe("the river of France is", kind="near"),
            Probe("the capital of Peru is", "Lima", "relation"),
            Probe("the sea of Peru is", "far"),
        ),
    )
    assert Battery.of([edited], [fact], TEXTS).pairs == {
        "edited": [(FRANCE.prompt, "Rome")],
        "rephrased": [("which city leads France ?", "Rome")],
        "near": [("the sea of France is", "blue"), ("the capital of Peru is", "Lima")],
    }


# --- scores -----------------------------------------------------------------------------------


def test_answers_are_judged_by_what_the_model_says(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    model = EditedModel.unedited(base)
    prompts = [case.row.question for case in CONFLICTING]
    words = [base.tokenizer.decode([token]) for token in likeliest(model, prompts)]
    texts = [answer.text for answer in answers(model, prompts, 16)]
    right = list(zip(prompts, words, strict=True))
    wrong = [(prompt, "mountain") for prompt in prompts]
    assert by_first_token(model, [*right, *wrong]) == [True] * 3 + [False] * 3
    third = [(p, " ".join(text.split()[2:4])) for p, text in zip(prompts, texts, strict=True)]
    assert by_answer(model, [*right, *third, *wrong]) == [True] * 6 + [False] * 3
    assert by_first_token(model, []) == by_answer(model, []) == []


def test_every_check_gets_its_own_share(tiny_base: BaseOf) -> None:
    model = EditedModel.unedited(tiny_base("llama"))
    pairs = {"facts": [("a", "x"), ("b", "y")], "gold": [("c", "z")], "near": [("d", "w")] * 4}
    battery = Battery(pairs, TEXTS)

    def judge(_: Any, flat: Any) -> list[bool]:
        assert flat == [pair for part in pairs.values() for pair in part]
        return [True, False, True, False, False, True, False]

    assert battery.scores(model, judge) == {
        "facts": 0.5,
        "gold": 1.0,
        "near": 0.25,
        "copying": copying(model),
        "neutral": neutral_loss(model, TEXTS),
    }
    assert set(Battery().scores(model, by_first_token)) == {"copying"}


def repeating(base: Any, context: int | None) -> EditedModel:
    """A model that takes ``context`` tokens, and says again what followed half a text ago."""
    model = deepcopy(base.model)

    def repeat(_: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        ids = kwargs["input_ids"]
        assert context is None or ids.shape[1] <= context
        following = ids.roll(ids.shape[1] // 2 - 1, 1)
        logits = torch.nn.functional.one_hot(following, base.vocabulary).float()
        output.logits = logits[:, -kwargs.get("logits_to_keep", 0) :]
        return output

    model.register_forward_hook(repeat, with_kwargs=True)
    architecture = replace(base.architecture, context=context)
    return EditedModel.unedited(replace(base, model=model, architecture=architecture))


@pytest.mark.parametrize("context", [None, 64, 9, 4])
def test_a_model_that_repeats_copies_everything(tiny_base: BaseOf, context: int | None) -> None:
    assert copying(repeating(tiny_base("llama"), context)) == 1.0


def test_copying_is_a_share_and_always_of_the_same_texts(tiny_base: BaseOf) -> None:
    model = EditedModel.unedited(tiny_base("llama"))
    assert 0.0 <= copying(model) < 0.5
    assert copying(model) == copying(model)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_the_neutral_loss_is_the_model_s_own(tiny_base: BaseOf, family: str) -> None:
    base = tiny_base(family)
    total, count = 0.0, 0
    for text in TEXTS:
        ids = torch.tensor([encode_prompt(base.tokenizer, text)])
        with torch.no_grad():
            loss = base.model(input_ids=ids, labels=ids).loss
        total += float(loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    model = EditedModel.unedited(base)
    assert neutral_loss(model, TEXTS) == pytest.approx(total / count, abs=1e-5)


@pytest.mark.parametrize("at", ["all", "end"])
def test_texts_that_are_scored_in_slices_lose_as_much(
    tiny_base: BaseOf, monkeypatch: pytest.MonkeyPatch, at: Any
) -> None:
    """A long text of a large vocabulary has too many logits for one forward."""
    base = tiny_base("llama")
    with pruned(base, HeadMask((Head(0, 1), Head(2, 0)), at=at)) as model:
        whole = neutral_loss(model, [*TEXTS, LONG])
        monkeypatch.setattr("editors.conflicts.locality.LOGITS_AT_ONCE", 3 * base.vocabulary)
        assert neutral_loss(model, [*TEXTS, LONG]) == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("score", [copying, lambda model: neutral_loss(model, TEXTS)])
def test_heads_pruned_at_the_end_of_prompts_are_pruned_all_through_a_text(
    tiny_base: BaseOf, score: Callable[[EditedModel], float]
) -> None:
    """As if the text had been generated from its first token."""
    base = tiny_base("llama")
    heads = (Head(0, 1), Head(1, 0), Head(2, 0))
    with pruned(base, HeadMask(heads, at="end")) as model:
        at_end = score(model)
    with pruned(base, HeadMask(heads)) as model:
        assert at_end == score(model)
    assert at_end != score(EditedModel.unedited(base))


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_a_text_longer_than_the_context_counts_as_far_as_it_fits(
    tiny_base: BaseOf, family: str
) -> None:
    base = tiny_base(family)
    model = EditedModel.unedited(base)
    ids = torch.tensor([encode_prompt(base.tokenizer, LONG)[: base.architecture.context]])
    with torch.no_grad():
        wanted = float(base.model(input_ids=ids, labels=ids).loss)
    assert neutral_loss(model, [LONG]) == pytest.approx(wanted, abs=1e-5)
    assert next_tokens(model, [LONG]).shape == (1, base.architecture.vocab_size)


def test_text_without_a_second_token_has_no_loss(tiny_base: BaseOf) -> None:
    model = EditedModel.unedited(tiny_base("llama", adds_bos=False))
    with pytest.raises(EditorError, match="no neutral text has two tokens"):
        neutral_loss(model, ["sea", "red"])


def test_next_tokens_follow_the_greater_part_of_a_text(tiny_base: BaseOf) -> None:
    model = EditedModel.unedited(tiny_base("llama"))
    beginnings = ["the sea of Kenya", "Ann works in", "Bob plays the violin", "sea"]
    assert torch.equal(next_tokens(model, [*TEXTS, "sea"]), distributions(model, beginnings))


def test_divergence_is_nothing_for_the_same_and_as_computed_by_hand() -> None:
    one = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
    assert divergence(one, one) == (pytest.approx(0.0), 1.0)
    other = torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]])
    kl = (0.25 * math.log(0.5) + 0.5 * math.log(2)) / 2  # of after, from before, over two rows
    assert divergence(one, other) == (pytest.approx(kl), 0.5)
    sure = torch.tensor([[1.0, 0.0, 0.0]])
    assert math.isfinite(divergence(sure, sure.roll(1, 1))[0])


def test_pruning_shows_in_the_scores_and_is_gone_afterwards(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    model = EditedModel.unedited(base)
    battery = Battery.of(CONFLICTING, [], TEXTS)
    before = battery.scores(model, by_first_token)
    with pruned(base, HeadMask(tuple(Head(0, head) for head in range(4)))) as headless:
        after = battery.scores(headless, by_first_token)
    assert after["neutral"] != before["neutral"]
    assert battery.scores(model, by_first_token) == before
