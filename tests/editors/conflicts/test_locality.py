"""What pruning must not cost: the battery, its scores, losses and gates (PH3 section 5.4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_edits import FRANCE

from editors import EditorError, Probe
from editors.conflicts.cases import Asked, Conflict, next_probabilities
from editors.conflicts.locality import (
    GATES,
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
from editors.heads.head_mask import Head, HeadMask
from editors.inference.generation import answers
from editors.model.tokenization import encode_prompt

BaseOf = Callable[..., Any]
TEXTS = ["the sea of Kenya is red .", "Ann works in Oslo .", "Bob plays the violin and the piano"]
LONG = "the sea and the mountain " * 60


# --- losses and gates -------------------------------------------------------------------------


def test_a_loss_is_positive_where_a_score_gets_worse() -> None:
    before = dict.fromkeys(GATES, 0.5)
    worse = {name: 0.7 if name in ("neutral", "other") else 0.3 for name in GATES}
    assert losses(before, worse) == pytest.approx(dict.fromkeys(GATES, 0.2))
    assert losses(worse, before) == pytest.approx(dict.fromkeys(GATES, -0.2))
    assert losses(before, {"gold": 0.5, "something": 1.0}) == {"gold": 0.0}
    assert losses({"facts": 1.0}, before) == {"facts": 0.5}


def test_a_score_that_is_no_number_any_more_is_lost_altogether() -> None:
    lost = losses({"neutral": 2.0, "facts": 0.5}, {"neutral": math.nan, "facts": math.nan})
    assert lost == {"neutral": math.inf, "facts": math.inf}
    assert beyond(lost) == ["neutral", "facts"]


scores = st.fixed_dictionaries(dict.fromkeys(GATES, st.floats(0, 1)))


@given(scores)
def test_what_does_not_change_loses_nothing(same: dict[str, float]) -> None:
    assert beyond(losses(same, same)) == []


def test_a_gate_is_met_at_its_edge_and_not_beyond() -> None:
    assert beyond(GATES) == []
    over = {name: gate + 0.001 for name, gate in GATES.items()}
    assert beyond(over) == list(GATES)
    assert beyond({"other": 0.06, "gold": -1.0, "facts": 0.5}) == ["facts", "other"]
    assert beyond({}) == []


# --- the battery ------------------------------------------------------------------------------


def asked(subject: str, answer: str, memory: str, **more: Any) -> Asked:
    context = f"the sea of {subject} is {answer} ."
    row = Conflict(f"the sea of {subject} is", context, answer, subject=subject, **more)
    return Asked(row, memory)


CONFLICTING = [
    asked("Kenya", "red", "blue", relation="a"),
    asked("Spain", "Rome", "Oslo", relation="b"),
    asked("Peru", "Lima", "green", relation="b", kind="coherent"),
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
    assert kenya[0] in {f"{a.row.context} the sea of Kenya is" for a in CONFLICTING[1:]}
    assert set(pairs) == {"facts", "gold", "irrelevant"}
    assert pairs == Battery.of(CONFLICTING, [], TEXTS).pairs


def test_a_made_passage_never_names_the_answer_it_should_not() -> None:
    rows = [CONFLICTING[0], replace(CONFLICTING[1], memory="red")]
    pairs = Battery.of(rows, [], TEXTS).pairs
    assert [prompt for prompt, _ in pairs["irrelevant"]] == [
        "the sea of Spain is Rome . the sea of Kenya is"
    ]
    elsewhere = replace(CONFLICTING[0].row, context="nothing is said .")
    assert "gold" not in Battery.of([replace(CONFLICTING[0], row=elsewhere)], [], TEXTS).pairs


def test_rows_of_their_kind_are_taken_where_there_are_some() -> None:
    gold = asked("Italy", "Oslo", "Oslo", kind="gold")
    irrelevant = asked("Egypt", "far", "Cairo", kind="irrelevant")
    pairs = Battery.of([*CONFLICTING, gold, irrelevant], [], TEXTS).pairs
    assert pairs["gold"] == [(gold.row.prompt, "Oslo")]
    assert pairs["irrelevant"] == [(irrelevant.row.prompt, "Cairo")]
    assert len(pairs["facts"]) == 5


def test_edits_are_asked_without_a_passage_and_rows_about_them_not_at_all() -> None:
    edited = replace(CONFLICTING[0], fact="id", before="Paris")
    fact = replace(
        FRANCE,
        rephrases=("which city leads France ?",),
        locality=(
            Probe("the sea of France is", "blue", "near"),
            Probe("the river of France is", kind="near"),
            Probe("the sea of Peru is", "far"),
        ),
    )
    assert Battery.of([edited], [fact], TEXTS).pairs == {
        "edited": [(FRANCE.prompt, "Rome")],
        "rephrased": [("which city leads France ?", "Rome")],
        "near": [("the sea of France is", "blue")],
    }


# --- scores -----------------------------------------------------------------------------------


def test_answers_are_judged_by_what_the_model_says(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    prompts = [a.row.question for a in CONFLICTING]
    first = next_probabilities(base, prompts).argmax(-1).tolist()
    said = [answer.text for answer in answers(base, prompts, 16)]
    words = [base.tokenizer.decode([token]) for token in first]
    right = list(zip(prompts, words, strict=True))
    wrong = [(prompt, "mountain") for prompt in prompts]
    assert by_first_token(base, [*right, *wrong]) == [True] * 3 + [False] * 3
    third = [(p, " ".join(text.split()[2:4])) for p, text in zip(prompts, said, strict=True)]
    assert by_answer(base, [*right, *third, *wrong]) == [True] * 6 + [False] * 3
    assert by_first_token(base, []) == by_answer(base, []) == []


def test_every_check_gets_its_own_share(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    pairs = {"facts": [("a", "x"), ("b", "y")], "gold": [("c", "z")], "near": [("d", "w")] * 4}
    battery = Battery(pairs, TEXTS)

    def right(_: Any, flat: Any) -> list[bool]:
        assert flat == [pair for part in pairs.values() for pair in part]
        return [True, False, True, False, False, True, False]

    found = battery.scores(base, right)
    assert found == {
        "facts": 0.5,
        "gold": 1.0,
        "near": 0.25,
        "copying": copying(base),
        "neutral": neutral_loss(base, TEXTS),
    }
    assert set(Battery().scores(base, by_first_token)) == {"copying"}


def repeating(context: int | None = 64, vocabulary: int = 400) -> Any:
    """A base that says again what followed half a text ago."""

    class Model:
        def get_output_embeddings(self) -> Any:
            return SimpleNamespace(weight=torch.zeros(vocabulary, 1))

        def __call__(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
            assert context is None or input_ids.shape[1] <= context
            half = input_ids.shape[1] // 2
            following = input_ids.roll(half - 1, 1)
            return SimpleNamespace(logits=torch.nn.functional.one_hot(following, vocabulary))

    return SimpleNamespace(
        model=Model(), input_device="cpu", architecture=SimpleNamespace(context=context)
    )


@pytest.mark.parametrize("context", [None, 64, 9, 4])
def test_a_model_that_repeats_copies_everything(context: int | None) -> None:
    assert copying(repeating(context)) == 1.0


def test_copying_is_a_share_and_always_of_the_same_texts(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    assert 0.0 <= copying(base) < 0.5
    assert copying(base) == copying(base)


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
    assert neutral_loss(base, TEXTS) == pytest.approx(total / count, abs=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_a_text_longer_than_the_context_counts_as_far_as_it_fits(
    tiny_base: BaseOf, family: str
) -> None:
    base = tiny_base(family)
    ids = torch.tensor([encode_prompt(base.tokenizer, LONG)[: base.architecture.context]])
    with torch.no_grad():
        wanted = float(base.model(input_ids=ids, labels=ids).loss)
    assert neutral_loss(base, [LONG]) == pytest.approx(wanted, abs=1e-5)
    assert next_tokens(base, [LONG]).shape == (1, base.architecture.vocab_size)


def test_text_without_a_second_token_has_no_loss(tiny_base: BaseOf) -> None:
    with pytest.raises(EditorError, match="no neutral text has two tokens"):
        neutral_loss(tiny_base("llama", adds_bos=False), ["sea", "red"])


def test_next_tokens_follow_the_greater_part_of_a_text(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    found = next_tokens(base, [*TEXTS, "sea"])
    begun = ["the sea of Kenya", "Ann works in", "Bob plays the violin", "sea"]
    assert torch.equal(found, next_probabilities(base, begun))


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
    battery = Battery.of(CONFLICTING, [], TEXTS)
    before = battery.scores(base, by_first_token)
    with HeadMask(tuple(Head(0, head) for head in range(4))).attached(base):
        after = battery.scores(base, by_first_token)
    assert after["neutral"] != before["neutral"]
    assert battery.scores(base, by_first_token) == before
