"""Rows: the prompt's own tokens, the target's as labels, and pads that change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_configs import BOS, EOS, PAD
from tiny_models import CHAT

from editors import EditorError, PromptTooLong
from editors.model.tokenization import (
    IGNORED,
    Row,
    encode_pairs,
    encode_prompt,
    in_chat,
    pad_id,
    pad_rows,
)

Tokenizers = Callable[..., Any]
PROMPT, TARGET = "the capital of France is", "blue Oslo"


def pair(tokenizer: Any, stop: bool = True, context: int | None = None) -> Row:
    return encode_pairs(tokenizer, [(PROMPT, TARGET)], stop=stop, context=context)[0]


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("adds_eos", [True, False])
@pytest.mark.parametrize("stop", [True, False])
def test_a_row_is_the_prompt_then_the_target_then_one_stop(
    word_tokenizer: Tokenizers, adds_bos: bool, adds_eos: bool, stop: bool
) -> None:
    tokenizer = word_tokenizer(adds_bos=adds_bos, adds_eos=adds_eos)
    row = pair(tokenizer, stop)
    words = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    target = tokenizer(TARGET, add_special_tokens=False)["input_ids"]
    assert list(row.ids[: row.prompt_length]) == [BOS] * adds_bos + words
    assert list(row.ids[row.prompt_length :]) == target + [EOS] * stop


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("adds_eos", [True, False])
def test_training_sees_the_prompt_that_inference_sees(
    word_tokenizer: Tokenizers, adds_bos: bool, adds_eos: bool
) -> None:
    tokenizer = word_tokenizer(adds_bos=adds_bos, adds_eos=adds_eos)
    row = pair(tokenizer)
    assert row.ids[: row.prompt_length] == encode_prompt(tokenizer, PROMPT)


def test_a_boundary_that_merges_leaves_the_prompt_as_it_is_alone() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(["a", "b", " ", "a ", "</s>"])}
    merging = Tokenizer(models.BPE(vocabulary, [("a", " ")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=merging, eos_token="</s>")
    assert tokenizer("a b")["input_ids"] == [3, 1]  # "a " swallows the prompt's last token
    assert encode_pairs(tokenizer, [("a", "b")], stop=True) == [Row((0, 2, 1, 4), 1)]


def test_a_row_may_fill_the_context_but_not_exceed_it(word_tokenizer: Tokenizers) -> None:
    tokenizer = word_tokenizer()
    fits = len(pair(tokenizer).ids)
    assert len(pair(tokenizer, context=fits).ids) == fits
    with pytest.raises(PromptTooLong, match=f"{fits} tokens, the model takes {fits - 1}"):
        pair(tokenizer, context=fits - 1)
    assert len(pair(tokenizer, stop=False, context=fits - 1).ids) == fits - 1


def test_a_stop_needs_an_end_of_sequence_token(word_tokenizer: Tokenizers) -> None:
    tokenizer = word_tokenizer(has_eos=False)
    with pytest.raises(EditorError, match="no end-of-sequence token") as caught:
        pair(tokenizer)
    assert "eos_token" in caught.value.hint
    assert pair(tokenizer, stop=False).ids


def test_a_prompt_without_tokens_is_refused(word_tokenizer: Tokenizers) -> None:
    with pytest.raises(EditorError, match="has no tokens"):
        encode_prompt(word_tokenizer(adds_bos=False), " ")


def test_pads_are_the_pad_token_else_the_end_else_zero(word_tokenizer: Tokenizers) -> None:
    assert pad_id(word_tokenizer()) == PAD
    assert pad_id(word_tokenizer(has_pad=False)) == EOS
    assert pad_id(word_tokenizer(has_pad=False, has_eos=False)) == 0


# Rows whose prompts, targets and unlabelled texts may each be the longest of the batch.
rows = st.lists(
    st.tuples(st.integers(1, 9), st.integers(0, 5)).map(
        lambda n: Row(tuple(range(10, 10 + sum(n))), n[0])
    ),
    min_size=1,
    max_size=6,
)


@given(rows=rows, side=st.sampled_from(["left", "right"]), pad_with=st.integers(0, 30))
def test_exactly_the_tokens_after_the_prompt_are_labels(
    rows: list[Row], side: Any, pad_with: int
) -> None:
    """Also where the pad is a token that occurs in the text, as an end-of-sequence pad does."""
    batch = pad_rows(rows, pad_with, side, torch.device("cpu"))
    labels = batch.labels()
    for i, row in enumerate(rows):
        assert labels[i][labels[i] != IGNORED].tolist() == list(row.ids[row.prompt_length :])
        assert batch.ids[i][batch.mask[i].bool()].tolist() == list(row.ids)
    wanted = batch.labels() != IGNORED
    assert torch.equal(labels[wanted], batch.ids[wanted])
    assert int(batch.mask.sum()) == sum(len(row.ids) for row in rows)


# --- chats ------------------------------------------------------------------------------------


def test_the_target_begins_the_turn_after_the_chat(word_tokenizer: Tokenizers) -> None:
    tokenizer = word_tokenizer(chat_template=CHAT)
    chat = in_chat(PROMPT, "Ann works .")
    [row] = encode_pairs(tokenizer, [(chat, TARGET)], stop=True)
    assert row.ids[: row.prompt_length] == encode_prompt(tokenizer, chat)
    target = tokenizer(TARGET, add_special_tokens=False)["input_ids"]
    assert list(row.ids[row.prompt_length :]) == [*target, EOS]
    assert encode_prompt(tokenizer, in_chat(PROMPT)) != encode_prompt(tokenizer, chat)


def test_a_chat_that_is_too_long_is_named_by_its_question(word_tokenizer: Tokenizers) -> None:
    tokenizer = word_tokenizer(chat_template=CHAT)
    with pytest.raises(PromptTooLong, match=f"the model takes 9: '{PROMPT}'"):
        encode_pairs(tokenizer, [(in_chat(PROMPT, "Ann works ."), TARGET)], stop=True, context=9)


@pytest.mark.parametrize("template", ["{{ raise_exception('no system') }}", "{{ 1 + 'a' }}", "{%"])
def test_a_template_that_fails_is_an_error_in_words(
    word_tokenizer: Tokenizers, template: str
) -> None:
    with pytest.raises(EditorError, match="chat template refuses these turns: ") as caught:
        encode_prompt(word_tokenizer(chat_template=template), in_chat(PROMPT))
    assert caught.value.hint


def test_a_chat_without_a_template_is_refused(word_tokenizer: Tokenizers) -> None:
    with pytest.raises(EditorError, match="has no chat template"):
        encode_prompt(word_tokenizer(), in_chat(PROMPT))
