"""Answers that are followed are those that each request would get alone, piece by piece."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_configs import EDITABLE
from tiny_edits import FACTS, edit
from tiny_models import quick_first
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from editors import PromptTooLong
from editors.inference.edited_model import EditedModel
from editors.inference.generation import answers
from editors.inference.live_answers import (
    LiveAnswer,
    Request,
    Sampling,
    answer_live,
    answered_with_first,
)
from editors.inference.next_tokens import distributions
from editors.model.base_model import Base

BaseOf = Callable[..., Any]
UNCLAIMED = ["the city of Spain is", "Ann", "what is the sea of Kenya ?", "Bob lives in Rome . he"]
PROMPTS = [*UNCLAIMED, *(fact.prompt for fact in FACTS), "the river of Egypt is not red . it is"]
ROWS = 32


@dataclass
class Heard:
    """A follower that writes everything down."""

    wants_pieces: bool = True
    wanted: int = 10_000  # tokens
    events: list[str] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    decision: Any = None
    answer: LiveAnswer | None = None

    def decided(self, decision: Any) -> None:
        self.events.append("decided")
        self.decision = decision

    def said(self, piece: str) -> None:
        self.events.append("said")
        self.pieces.append(piece)

    def wants_more(self) -> bool:
        self.wanted -= 1
        return self.wanted > 0

    def ended(self, answer: LiveAnswer) -> None:
        self.events.append("ended")
        self.answer = answer


def heard(model: EditedModel, requests: Sequence[Request]) -> list[Heard]:
    """What is heard of the answers to ``requests``, in as few batches as may be."""
    followers = [Heard() for _ in requests]
    waiting = [*zip(requests, followers, strict=True)]
    while waiting:
        chosen = answered_with_first(model.base, [request for request, _ in waiting], ROWS)
        assert 0 in chosen
        together = [waiting[number] for number in chosen]
        answer_live(model, [one for one, _ in together], [other for _, other in together])
        waiting = [pair for number, pair in enumerate(waiting) if number not in chosen]
    return followers


def require_as_alone(model: EditedModel, prompts: Sequence[str], lengths: Sequence[int]) -> None:
    """Answer all prompts together, each up to its length, and compare with each alone."""
    requests = [Request.of(model, *pair) for pair in zip(prompts, lengths, strict=True)]
    for prompt, length, found in zip(prompts, lengths, heard(model, requests), strict=True):
        [alone] = answers(model, [prompt], length)
        assert found.answer is not None
        assert (found.answer.text, found.answer.end) == (
            alone.text,
            "stop" if alone.stopped else "length",
        )
        assert "".join(found.pieces) == alone.text
        # The score is a sum of floats, which may differ in the last digit beside other rows.
        assert (found.decision is None) == (alone.decision is None)
        if alone.decision is not None:
            decision = replace(found.decision, score=pytest.approx(alone.decision.score))
            assert decision == alone.decision
        assert found.events[0] == "decided"
        assert found.events[-1] == "ended"
        assert set(found.events[1:-1]) <= {"said"}


@pytest.mark.parametrize("family", quick_first([*EDITABLE, "qwen3_5_text"]))
def test_each_request_is_answered_as_alone(tiny_base: BaseOf, family: str) -> None:
    model = EditedModel.unedited(tiny_base(family))
    context = model.base.architecture.context or 128
    # The longest prompt leaves room for three tokens, and stands beside short ones.
    long = " ".join(["the river of Peru is red ."] * 20).split()[: context - 4]
    lengths = [1 + 7 * number % 20 for number in range(len(PROMPTS))]
    require_as_alone(model, [*PROMPTS, " ".join(long)], [*lengths, 50])
    require_as_alone(model, [*PROMPTS, " ".join(long[:-40])], [*lengths[:-1], 200, 50])


@pytest.mark.parametrize("family", quick_first(EDITABLE))
def test_each_request_is_routed_as_alone(tiny_wise: Callable[..., Any], family: str) -> None:
    method = tiny_wise(family)
    with method.attach(edit(method, FACTS).state) as model:
        require_as_alone(model, PROMPTS * 2, [12] * (2 * len(PROMPTS)))
        [claimed] = heard(model, [Request.of(model, FACTS[0].prompt, 12)])
        assert claimed.decision.fact == FACTS[0].id


def test_prompts_of_different_length_share_a_batch_where_that_changes_nothing(
    tiny_base: BaseOf,
) -> None:
    def shared(base: Base) -> int:
        model = EditedModel.unedited(base)
        requests = [Request.of(model, prompt, 4) for prompt in PROMPTS]
        return len(answered_with_first(base, requests, ROWS))

    base = tiny_base("llama")
    assert shared(base) == len(PROMPTS)
    assert shared(tiny_base("qwen3_5_text")) < len(PROMPTS), "its blocks mix tokens over time"
    config = copy.deepcopy(base.model.config)
    config.rope_parameters = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0}
    stretched = AutoModelForCausalLM.from_config(config)
    assert shared(Base.of(stretched, base.tokenizer)) < len(PROMPTS), "the longest row counts"
    assert len(answered_with_first(base, [Request((1, 5), 4)] * 5, 3)) == 3


def test_a_prompt_without_room_for_an_answer_is_refused(tiny_base: BaseOf) -> None:
    model = EditedModel.unedited(tiny_base("llama"))
    with pytest.raises(PromptTooLong):
        Request.of(model, " ".join(["the"] * 200), 4)


def test_an_answer_that_nobody_wants_ends_and_the_others_go_on(tiny_base: BaseOf) -> None:
    model = EditedModel.unedited(tiny_base("llama"))
    requests = [Request.of(model, prompt, 12) for prompt in PROMPTS[:3]]
    [whole, *_] = heard(model, requests)
    assert whole.answer is not None
    assert whole.answer.tokens > 3
    followers = [Heard(), Heard(wanted=3), Heard()]
    answer_live(model, requests, followers)
    assert followers[1].answer is not None
    assert (followers[1].answer.end, followers[1].answer.tokens) == ("unwanted", 3)
    assert followers[0].answer == whole.answer


def test_who_wants_no_pieces_gets_the_same_answer(tiny_base: BaseOf) -> None:
    model = EditedModel.unedited(tiny_base("llama"))
    requests = [Request.of(model, prompt, 12, ("red",)) for prompt in PROMPTS]
    silent = [Heard(wants_pieces=False) for _ in requests]
    answer_live(model, requests, silent)
    assert [one.answer for one in silent] == [one.answer for one in heard(model, requests)]
    assert not any(one.pieces for one in silent)


# --- sampling -------------------------------------------------------------------------------------


def test_a_seed_draws_the_same_answer_whatever_stands_beside(tiny_base: BaseOf) -> None:
    model = EditedModel.unedited(tiny_base("llama"))
    drawn = Request.of(model, PROMPTS[0], 20, sampling=Sampling(1.0, seed=(7, 1)))
    other = replace(drawn, sampling=Sampling(1.0, seed=(7, 2)))
    beside = [Request.of(model, prompt, 20) for prompt in PROMPTS]
    [alone], [one, two, *greedy] = (heard(model, r) for r in ([drawn], [drawn, other, *beside]))
    assert one.answer == alone.answer != two.answer
    plain = answers(model, PROMPTS, 20)
    assert [said.answer.text for said in greedy if said.answer] == [said.text for said in plain]
    unseeded = replace(drawn, sampling=Sampling(1.0))
    assert len({str(said.answer) for said in heard(model, [unseeded] * 4)}) > 1


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.5, 0.6), (1.0, 0.0)])
def test_tokens_are_drawn_by_their_probabilities(
    tiny_base: BaseOf, temperature: float, top_p: float
) -> None:
    model = EditedModel.unedited(tiny_base("llama"))
    probabilities = distributions(model, PROMPTS[:1])[0].double()
    probabilities = (probabilities.log() / temperature).softmax(0)
    order = probabilities.argsort(descending=True)
    before = probabilities[order].cumsum(0) - probabilities[order]
    kept = order[(before < top_p) | (before == 0)]  # the likeliest ones, up to the share
    expected = torch.zeros_like(probabilities)
    expected[kept] = probabilities[kept] / probabilities[kept].sum()
    count = 2000
    requests = [
        Request.of(model, PROMPTS[0], 1, sampling=Sampling(temperature, top_p, seed=(number,)))
        for number in range(count)
    ]
    texts = Counter(said.answer.text for said in heard(model, requests) if said.answer)
    of_text: Counter[str] = Counter()
    for token, share in enumerate(expected.tolist()):
        of_text[model.base.tokenizer.decode([token], skip_special_tokens=True).strip()] += share
    assert {text for text, share in of_text.items() if share > 0} >= texts.keys()
    distance = sum(abs(texts[text] / count - share) for text, share in of_text.items()) / 2
    assert distance < 0.08


# --- pieces ---------------------------------------------------------------------------------------


def random_model(tokenizer: Tokenizer, **kinds: Any) -> EditedModel:
    """A model with random weights over the tokens of ``tokenizer``, of which the first ends."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", **kinds)
    config = AutoConfig.for_model(
        "llama", vocab_size=tokenizer.get_vocab_size(), hidden_size=16, intermediate_size=16,
        num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=256, eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return EditedModel.unedited(Base.of(AutoModelForCausalLM.from_config(config), fast))


@pytest.fixture(scope="module", params=["bytes", "tidied words"])
def raw(request: pytest.FixtureRequest) -> EditedModel:
    """Tokens that are single bytes, so that characters are cut; and words between which the
    tokenizer takes spaces away, so that a word may change the text before it."""
    if request.param == "bytes":
        tokens = ["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
        tokenizer = Tokenizer(models.BPE({token: n for n, token in enumerate(tokens)}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        return random_model(tokenizer)
    tokens = ["<end>", "é", "'", "rock", "n", ".", "?", "n't", "'s", "'m", "do"]
    words = {token: n for n, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="é"))
    return random_model(tokenizer, clean_up_tokenization_spaces=True)


@settings(max_examples=20, deadline=None)
@given(seeds=st.lists(st.integers(0, 2**32), min_size=4, max_size=4), data=st.data())
def test_pieces_are_the_answer_and_a_stop_cuts_it(
    raw: EditedModel, seeds: list[int], data: st.DataObject
) -> None:
    def said(stops: Sequence[str]) -> list[Heard]:
        return heard(
            raw,
            [Request.of(raw, "é", 24, tuple(stops), Sampling(1.0, seed=(seed,))) for seed in seeds],
        )

    whole = said(())
    text = "".join(one.answer.text for one in whole if one.answer)
    stops = []  # parts of the answers, and parts that go on in another way
    for _ in range(data.draw(st.integers(0, 3)) if text else 0):
        start = data.draw(st.integers(0, len(text) - 1))
        part = text[start : start + data.draw(st.integers(1, 6))]
        stops.append(part + data.draw(st.sampled_from(["", "", "#"])))
    for free, cut in zip(whole, said(stops), strict=True):
        assert free.answer is not None
        assert cut.answer is not None
        assert "".join(free.pieces) == free.answer.text
        assert "".join(cut.pieces) == cut.answer.text
        assert not any(stop in cut.answer.text for stop in stops)
        assert free.answer.text.startswith(cut.answer.text)
        if cut.answer.text != free.answer.text:
            assert cut.answer.end == "stop"
