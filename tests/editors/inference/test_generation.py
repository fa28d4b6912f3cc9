"""Answers are greedy decoding of the model itself, and stop where it stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from editors import EditorError, PromptTooLong
from editors.inference.edited_model import EditedModel
from editors.inference.generation import (
    answers,
    begun_answers,
    decode,
    greedy_logits,
    paired_answers,
    stop_ids,
)
from editors.inference.next_tokens import digests, distributions, likeliest
from editors.model.tokenization import encode_prompt
from editors.text_matching import plain_words

BaseOf = Callable[..., Any]
PROMPTS = ["the capital of France is", "Ann plays", "the river of Peru is", "who lives in Rome ?"]
TOKENS = 6


def greedy(base: Any, prompt: str) -> tuple[str, bool]:
    """The answer by argmax over whole forwards, without ``generate`` and without a cache."""
    ids = list(encode_prompt(base.tokenizer, prompt))
    said: list[int] = []
    for _ in range(TOKENS):
        with torch.no_grad():
            token = int(base.model(torch.tensor([ids + said])).logits[0, -1].argmax())
        if token == base.tokenizer.eos_token_id:
            return base.tokenizer.decode(said, skip_special_tokens=True).strip(), True
        said.append(token)
    return base.tokenizer.decode(said, skip_special_tokens=True).strip(), False


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "opt"])
def test_answers_are_the_likeliest_tokens_one_after_the_other(
    tiny_base: BaseOf, family: str
) -> None:
    base = tiny_base(family)
    found = answers(EditedModel.unedited(base), PROMPTS, TOKENS)
    assert [(answer.text, answer.stopped) for answer in found] == [
        greedy(base, prompt) for prompt in PROMPTS
    ]
    assert all(answer.decision is None for answer in found)


@pytest.mark.parametrize(
    "settings",
    [
        {"min_new_tokens": 6},
        {"repetition_penalty": 5.0},
        {"do_sample": True, "temperature": 9.0},
        {"num_beams": 3},
        {"return_dict_in_generate": True},
        {"use_cache": False},
        {"suppress_tokens": [5, 6, 7, 8]},
        {"max_length": 3},
        {"num_return_sequences": 2, "num_beams": 2},
        {"forced_eos_token_id": 2},
        {"no_repeat_ngram_size": 1},
    ],
    ids=lambda settings: "+".join(settings),
)
def test_the_checkpoint_s_generation_settings_are_left_out(
    tiny_base: BaseOf, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base("llama")
    plain = answers(EditedModel.unedited(base), PROMPTS, TOKENS)
    own = GenerationConfig(eos_token_id=base.tokenizer.eos_token_id)
    for name, value in settings.items():
        setattr(own, name, value)
    monkeypatch.setattr(base.model, "generation_config", own)
    assert answers(EditedModel.unedited(base), PROMPTS, TOKENS) == plain
    assert base.model.generation_config is own, "it is put back"


def test_every_end_that_the_checkpoint_names_ends_an_answer(
    tiny_base: BaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base("llama")
    ids = torch.tensor([encode_prompt(base.tokenizer, PROMPTS[0])])
    first, second = decode(base, ids, 2)[0].tolist()
    config = GenerationConfig(eos_token_id=[second, 90])
    monkeypatch.setattr(base.model, "generation_config", config)
    assert stop_ids(base) == {second, 90, base.tokenizer.eos_token_id}
    [answer] = answers(EditedModel.unedited(base), PROMPTS[:1], TOKENS)
    assert (answer.text, answer.stopped) == (base.tokenizer.decode([first]), True)


def test_prompts_answered_together_answer_as_alone(tiny_base: BaseOf) -> None:
    model = EditedModel.unedited(tiny_base("llama"))
    prompts = PROMPTS * 3
    alone = [answers(model, [prompt], TOKENS)[0] for prompt in prompts]
    assert answers(model, prompts, TOKENS) == alone
    assert answers(model, [], TOKENS) == []


def test_an_answer_takes_no_more_than_the_context_has_room_for(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    model, context = EditedModel.unedited(base), base.architecture.context
    longest = " ".join(["the"] * (context - 3))  # with the first token, two are left
    [answer] = answers(model, [longest], 50)
    assert len(base.tokenizer(answer.text, add_special_tokens=False).input_ids) <= 2
    with pytest.raises(
        PromptTooLong, match=rf"has {context} tokens, and the model takes {context}"
    ):
        answers(model, [" ".join(["the"] * (context - 1))], 1)


def test_a_pair_takes_no_more_than_the_context_has_room_for(tiny_base: BaseOf) -> None:
    base = tiny_base("gpt2")  # whose learnt positions end with the context
    model, context = EditedModel.unedited(base), base.architecture.context
    short, long = "Ann plays", " ".join(["the"] * (context - 3))
    for one, other in ((short, long), (long, short)):
        room = context - max(len(encode_prompt(base.tokenizer, text)) for text in (one, other))
        [answer] = paired_answers(model, [one], [other], 50, lambda ones, _: ones)
        assert len(base.tokenizer(answer.text, add_special_tokens=False).input_ids) <= room < 50
    too_long = " ".join(["the"] * (context - 1))
    with pytest.raises(PromptTooLong, match=rf"has {context} tokens, and the model"):
        paired_answers(model, [short], [too_long], 1, lambda ones, _: ones)


def test_greedy_logits_are_those_that_answers_are_chosen_from(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    ids = torch.tensor([encode_prompt(base.tokenizer, PROMPTS[0])] * 2)
    chosen = [int(logits[0].argmax()) for logits in greedy_logits(base, ids, 3)]
    sequence = decode(base, ids[:1], 3)[0].tolist()
    assert chosen[: len(sequence)] == sequence


def test_pairs_go_on_by_the_same_token(tiny_base: BaseOf) -> None:
    model = EditedModel.unedited(tiny_base("llama"))
    others = [f"Bob lives in Rome . {prompt}" for prompt in PROMPTS]
    ones_only = paired_answers(model, PROMPTS, others, TOKENS, lambda ones, _: ones)
    assert ones_only == answers(model, PROMPTS, TOKENS)
    with pytest.raises(EditorError, match="4 prompts cannot be paired with 1"):
        paired_answers(model, PROMPTS, others[:1], TOKENS, lambda ones, _: ones)


def test_next_tokens_are_those_of_whole_forwards(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    model = EditedModel.unedited(base)
    with torch.no_grad():
        logits = torch.stack(
            [
                base.model(torch.tensor([encode_prompt(base.tokenizer, p)])).logits[0, -1]
                for p in PROMPTS
            ]
        )
    assert likeliest(model, PROMPTS) == logits.argmax(-1).tolist()
    torch.testing.assert_close(distributions(model, PROMPTS), logits.softmax(-1))
    # Equal for equal logits: of the same batch, as kernels may differ with the number of rows.
    assert digests(model, PROMPTS) == digests(model, PROMPTS)
    assert len(set(digests(model, PROMPTS))) == len(PROMPTS)


# --- beginnings of answers ----------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "bloom", "opt", "qwen3_5_text"])
@pytest.mark.parametrize("words", [None, 2])
def test_an_answer_begins_as_it_would_go_on(
    tiny_base: BaseOf, family: str, words: int | None
) -> None:
    """Prompts of different lengths are padded together; with ``words``, answers end early."""
    base = tiny_base(family)
    model, prompts = EditedModel.unedited(base), [*PROMPTS, "the sea of Kenya is red . it is"]
    done: list[int] = []
    begun = begun_answers(
        model, prompts, TOKENS, words, lambda logits, _: logits.argmax(-1).tolist(), done.append
    )
    assert sum(done) == len(prompts)
    assert [first for _, first in begun] == likeliest(model, prompts)
    for (answer, _), prompt in zip(begun, prompts, strict=True):
        text, stopped = greedy(base, prompt)
        if words is None:
            assert (answer.text, answer.stopped) == (text, stopped)
            continue
        assert text.startswith(answer.text)
        assert plain_words(answer.text)[:words] == plain_words(text)[:words]
        if len(plain_words(text)) > words:
            assert len(plain_words(answer.text)) == words + 1, "the next word has just begun"
            assert not answer.stopped


def test_the_likeliest_token_does_not_depend_on_the_prompts_beside_it(tiny_base: BaseOf) -> None:
    model = EditedModel.unedited(tiny_base("llama"))
    prompts = [" ".join(PROMPTS[: 1 + n % 3])[n:] for n in range(20)]
    tokens = likeliest(model, prompts)
    assert tokens == distributions(model, prompts).argmax(-1).tolist()
    assert tokens == [token for prompt in prompts for token in likeliest(model, [prompt])]
