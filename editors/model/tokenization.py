"""From text to token rows: prompts, prompts with targets, and padded batches of rows.

A prompt is a text, or the turns of a chat, which the tokenizer's chat template turns into text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from editors.errors import EditorError, PromptTooLong
from editors.text_matching.encodable import is_unicode

ENCODED_AT_ONCE = 1024  # texts; the results of a tokenizer take more memory than the ids
IGNORED = -100  # the label of a position without a label
EXTRA_TOKENS = 4  # an answer may be longer than the longest known answer by this
SHOWN = 60  # characters of a prompt in a message

Ids = tuple[int, ...]
"""The token ids of one prompt, without pads."""

Turn = Mapping[str, str]
"""One turn of a chat: ``{"role": ..., "content": ...}``."""

Prompt = str | Sequence[Turn]

Wrap = Callable[[str], Prompt]
"""From a text to the prompt that it is asked in: the text itself, or a chat."""

Side = Literal["left", "right"]

TokenIndex = tuple[torch.Tensor, ...]
"""Some tokens of a batch: int64 ``[tokens]`` row numbers and int64 ``[tokens]`` columns."""


@dataclass(frozen=True, slots=True)
class Row:
    """The token ids of a prompt and its target; ``ids[prompt_length:]`` are the labels."""

    ids: Ids
    prompt_length: int

    @staticmethod
    def of_prompt(ids: Ids) -> Row:
        """A row without labels."""
        return Row(ids, len(ids))


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded rows.

    ``ids``: int64 ``[rows, seq]``; ``mask``: int64 ``[rows, seq]``, 1 at real tokens and 0 at pads;
    ``prompt_lengths``: int64 ``[rows]``, the number of prompt tokens of each row.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    prompt_lengths: torch.Tensor

    def labels(self) -> torch.Tensor:
        """int64 ``[rows, seq]``: the token id at real tokens after the prompt, ``IGNORED`` at all
        others."""
        number = self.mask.cumsum(1)  # [rows, seq]: the number of each real token, from 1
        after_prompt = (number > self.prompt_lengths[:, None]) & self.mask.bool()
        return torch.where(after_prompt, self.ids, IGNORED)


def in_chat(text: str, system: str | None = None) -> list[Turn]:
    """A chat whose only question is ``text``, after a ``system`` turn if there is one."""
    before = [] if system is None else [{"role": "system", "content": system}]
    return [*before, {"role": "user", "content": text}]


def shown(prompt: Prompt) -> str:
    """The beginning of ``prompt``, quoted for a message; of a chat, that of its last turn."""
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    return repr(text[:SHOWN])


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> Ids:
    """The ids of one prompt; see :func:`encode_prompts`."""
    return encode_prompts(tokenizer, [prompt])[0]


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[Ids]:
    """The ids that a model sees for each prompt, special tokens included.

    Some tokenizers end every text with the end-of-sequence token. It is left out, as the answer
    comes after the prompt.

    Raises:
        EditorError: a prompt has no tokens, or is not Unicode, or is a chat and the tokenizer has
            no chat template, or one that does not take its turns.
    """
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    for text in texts:
        if not is_unicode(text):
            raise EditorError(f"prompt {text!r} is not Unicode", "write it in UTF-8")
    of_texts = (
        ids
        for start in range(0, len(texts), ENCODED_AT_ONCE)
        for ids in tokenizer(texts[start : start + ENCODED_AT_ONCE])["input_ids"]
    )
    encoded: list[Ids] = []
    for prompt in prompts:
        if not isinstance(prompt, str):
            ids = _encoded_chat(tokenizer, prompt)
        else:
            ids = next(of_texts)
            has_end = len(ids) > 1 and ids[-1] == tokenizer.eos_token_id
            if has_end and not prompt.endswith(str(tokenizer.eos_token)):
                ids = ids[:-1]
        if not ids:
            raise EditorError(f"prompt {prompt!r} has no tokens")
        encoded.append(tuple(ids))
    return encoded


def _encoded_chat(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> list[int]:
    if tokenizer.chat_template is None:
        raise EditorError("the tokenizer has no chat template", "ask with a plain prompt")
    try:
        ids: list[int] = tokenizer.apply_chat_template(
            [dict(turn) for turn in turns], add_generation_prompt=True, return_dict=True
        )["input_ids"]
    # A template is a program that comes with the model: it may raise anything.
    except Exception as error:
        raise EditorError(
            f"the tokenizer's chat template refuses these turns: {error}",
            "some templates take no system turn, or want user and assistant to alternate",
        ) from error
    return ids


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[Prompt, str]],
    *,
    stop: bool,
    context: int | None = None,
) -> list[Row]:
    """Rows of prompts followed by their targets, and by the end-of-sequence token if ``stop``.

    A prompt has exactly the tokens that it has without a target, so that training and answering
    see the same prompt. A space joins a text and its target; in a chat, the target begins the
    turn.

    Raises:
        EditorError: a prompt cannot be encoded (see :func:`encode_prompts`), or ``stop`` is set and
            the tokenizer has no end-of-sequence token.
        PromptTooLong: a row has more than ``context`` tokens (None: no limit).
    """
    end = tokenizer.eos_token_id
    if stop and end is None:
        raise EditorError(
            "the tokenizer has no end-of-sequence token, so an answer cannot be taught to stop",
            "set `eos_token` in the tokenizer's config",
        )
    encoded = encode_prompts(tokenizer, [prompt for prompt, _ in pairs])
    texts = [f"{prompt} {target}" for prompt, target in pairs if isinstance(prompt, str)]
    with_target = iter(encode_prompts(tokenizer, texts))
    rows = []
    for (prompt, target), prompt_ids in zip(pairs, encoded, strict=True):
        joined = next(with_target) if isinstance(prompt, str) else ()
        if joined[: len(prompt_ids)] == prompt_ids and len(joined) > len(prompt_ids):
            target_ids = joined[len(prompt_ids) :]
        else:  # a chat, or a token spans the boundary: encode the target by itself
            alone = f" {target}" if isinstance(prompt, str) else target
            target_ids = tuple(tokenizer(alone, add_special_tokens=False)["input_ids"])
        rows.append(Row((*prompt_ids, *target_ids, *([end] if stop else [])), len(prompt_ids)))
        require_fit(rows[-1], prompt, context)
    return rows


def answer_limit(tokenizer: PreTrainedTokenizerBase, expected: Iterable[str | None]) -> int:
    """The most tokens of an answer: as many as the longest of the ``expected`` answers has after a
    prompt (8 if none is known), and a few more."""
    texts = [f" {answer}" for answer in dict.fromkeys(expected) if answer]
    return max(map(len, encode_prompts(tokenizer, texts)), default=8) + EXTRA_TOKENS


def require_fit(row: Row, prompt: Prompt, context: int | None) -> None:
    """Raise PromptTooLong, naming ``prompt``, if ``row`` has more than ``context`` tokens (None:
    no limit)."""
    if context is not None and len(row.ids) > context:
        raise PromptTooLong(
            f"prompt and target have {len(row.ids)} tokens, the model takes {context}: "
            f"{shown(prompt)}",
            "shorten the prompt",
        )


def pad_rows(rows: Sequence[Row], pad: int, side: Side, device: torch.device) -> Batch:
    """``rows`` padded with the id ``pad`` to the length of the longest, on ``side``."""
    pad_with = partial(pad_sequence, batch_first=True, padding_side=side)
    tokens = [torch.tensor(row.ids) for row in rows]
    ids = pad_with(tokens, padding_value=pad)
    mask = pad_with([torch.ones_like(row) for row in tokens])
    lengths = torch.tensor([row.prompt_length for row in rows])
    return Batch(ids.to(device), mask.to(device), lengths.to(device))


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id to pad with: the pad token, else the end-of-sequence token, else 0. The mask hides
    pads, so any id will do."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((int(token) for token in known if token is not None), 0)
