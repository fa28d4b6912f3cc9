"""Text to token rows: prompts, prompts with targets, and padded batches of them.

A prompt is a text, or the turns of a chat, which the tokenizer's chat template renders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase

from editors.errors import EditorError, PromptTooLong

ENCODED_AT_ONCE = 1024  # texts; the tokenizer's results take more memory than the ids
IGNORED = -100  # the label of a position that is not trained
SHOWN = 60  # characters of a prompt in a message

Ids = tuple[int, ...]
"""The token ids of one prompt, without pads."""

Turn = Mapping[str, str]
"""One turn of a chat: ``{"role": ..., "content": ...}``."""

Prompt = str | Sequence[Turn]

TokenIndex = tuple[torch.Tensor, ...]
"""int64 rows and columns of some tokens of a batch."""


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids of a prompt and what follows it; ``ids[prompt_length:]`` are the labels."""

    ids: Ids
    prompt_length: int

    @staticmethod
    def of_prompt(ids: Ids) -> Row:
        """A row without labels."""
        return Row(ids, len(ids))


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded rows.

    ``ids`` and ``mask``: int64 ``[rows, seq]`` (mask 1 on real tokens); ``prompt_lengths``: int64
    ``[rows]``, the number of real prompt tokens of each row.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    prompt_lengths: torch.Tensor

    def labels(self) -> torch.Tensor:
        """int64 ``[rows, seq]``: the token itself after the prompt, ``IGNORED`` elsewhere."""
        number = self.mask.cumsum(1)  # [rows, seq]: 1-based number of each real token
        after_prompt = (number > self.prompt_lengths[:, None]) & self.mask.bool()
        return torch.where(after_prompt, self.ids, IGNORED)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> Ids:
    """:func:`encode_prompts` of one."""
    return encode_prompts(tokenizer, [prompt])[0]


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[Ids]:
    """The ids that a model sees for each prompt, special tokens included.

    The end-of-sequence token of a tokenizer that closes every text is left out: nothing is asked
    after an end.

    Raises:
        EditorError: a prompt has no token at all, or is a chat and the tokenizer has no template.
    """
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    of_texts = iter(_encoded(tokenizer, texts))
    found: list[Ids] = []
    for prompt in prompts:
        if not isinstance(prompt, str):
            ids = _encoded_chat(tokenizer, prompt)
        else:
            ids = next(of_texts)
            closed = len(ids) > 1 and ids[-1] == tokenizer.eos_token_id
            if closed and not prompt.endswith(str(tokenizer.eos_token)):
                ids = ids[:-1]
        if not ids:
            raise EditorError(f"prompt {prompt!r} has no tokens")
        found.append(tuple(ids))
    return found


def _encoded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    found: list[list[int]] = []
    for start in range(0, len(texts), ENCODED_AT_ONCE):
        found += tokenizer(list(texts[start : start + ENCODED_AT_ONCE]))["input_ids"]
    return found


def _encoded_chat(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> list[int]:
    if tokenizer.chat_template is None:
        raise EditorError("the tokenizer has no chat template", "ask with a plain prompt")
    text = tokenizer.apply_chat_template(
        [dict(turn) for turn in turns], tokenize=False, add_generation_prompt=True
    )
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def encode_pair(
    tokenizer: PreTrainedTokenizerBase, prompt: str, target: str, *, stop: bool, context: int | None
) -> Row:
    """:func:`encode_pairs` of one, which must fit; raises PromptTooLong as :func:`require_fit`."""
    [row] = encode_pairs(tokenizer, [(prompt, target)], stop=stop)
    require_fit(row, prompt, context)
    return row


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], *, stop: bool
) -> list[Row]:
    """Prompts continued by targets, and by the end-of-sequence token where ``stop``.

    A prompt keeps exactly the tokens that it has on its own, so that training sees what answering
    sees.

    Raises:
        EditorError: the tokenizer has no end-of-sequence token and ``stop`` is set.
    """
    end = tokenizer.eos_token_id
    if stop and end is None:
        raise EditorError(
            "the tokenizer has no end-of-sequence token, so an answer cannot be taught to stop",
            "set `eos_token` in the tokenizer's config",
        )
    texts = [text for prompt, target in pairs for text in (prompt, f"{prompt} {target}")]
    encoded = encode_prompts(tokenizer, texts)
    rows = []
    for (_, target), head, joined in zip(pairs, encoded[::2], encoded[1::2], strict=True):
        if joined[: len(head)] == head and len(joined) > len(head):
            tail = joined[len(head) :]
        else:  # a token spans the boundary: take the target's tokens alone
            tail = tuple(tokenizer(f" {target}", add_special_tokens=False)["input_ids"])
        rows.append(Row((*head, *tail, *([end] if stop else [])), len(head)))
    return rows


def answer_length(tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]) -> int:
    """The number of tokens of the longest of ``answers``, as they follow a prompt; 0 for none."""
    texts = [f" {answer}" for answer in dict.fromkeys(answers)]
    return max(map(len, encode_prompts(tokenizer, texts)), default=0)


def require_fit(row: Row, prompt: str, context: int | None) -> None:
    """Raise PromptTooLong, naming ``prompt``, where a row is longer than ``context`` (None:
    unlimited)."""
    if context is not None and len(row.ids) > context:
        raise PromptTooLong(
            f"prompt and target have {len(row.ids)} tokens, the model takes {context}: "
            f"{_short(prompt)}",
            "shorten the prompt",
        )


def fits(tokenizer: PreTrainedTokenizerBase, prompt: str, context: int | None) -> bool:
    """Whether the prompt is no longer than the model's ``context`` (None: unlimited)."""
    return context is None or len(encode_prompt(tokenizer, prompt)) <= context


def pad_rows(
    rows: Sequence[Row],
    pad: int,
    side: Literal["left", "right"],
    device: torch.device | str = "cpu",
) -> Batch:
    """Rows padded with the id ``pad`` to the longest, on ``side``."""
    longest = max(len(row.ids) for row in rows)
    ids, mask = [], []
    for row in rows:
        missing = longest - len(row.ids)
        pads, unreal, real = [pad] * missing, [0] * missing, [1] * len(row.ids)
        ids.append(pads + list(row.ids) if side == "left" else list(row.ids) + pads)
        mask.append(unreal + real if side == "left" else real + unreal)
    lengths = torch.tensor([row.prompt_length for row in rows])
    return Batch(torch.tensor(ids).to(device), torch.tensor(mask).to(device), lengths.to(device))


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id to pad with: the pad token, else the end-of-sequence token, else 0, which the mask
    hides."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 3] + "...")
