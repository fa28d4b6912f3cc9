"""Text to token rows: prompts, prompt-and-target pairs, and padded batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase

from editors.errors import EditorError, PromptTooLong

ENCODED_AT_ONCE = 1024
IGNORED = -100  # the label of a position that is not trained

Places = tuple[torch.Tensor, ...]  # int64 rows and columns of tokens in a batch


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids of a prompt and what follows it; ``ids[prompt_length:]`` are the labels."""

    ids: tuple[int, ...]
    prompt_length: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded rows.

    ``ids`` and ``mask``: int64 ``[batch, seq]`` (mask 1 on real tokens); ``prompt_lengths``:
    int64 ``[batch]``, the number of real prompt tokens of each row.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    prompt_lengths: torch.Tensor

    def labels(self) -> torch.Tensor:
        """int64 ``[batch, seq]``: the token itself after the prompt, ``IGNORED`` elsewhere."""
        place = self.mask.cumsum(1)  # [batch, seq]: 1-based number of each real token
        after_prompt = (place > self.prompt_lengths[:, None]) & self.mask.bool()
        return torch.where(after_prompt, self.ids, IGNORED)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> tuple[int, ...]:
    """:func:`encode_prompts` of one."""
    return encode_prompts(tokenizer, [prompt])[0]


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]
) -> list[tuple[int, ...]]:
    """The ids a model sees for each prompt, special tokens included.

    The end-of-sequence token of a tokenizer that closes every text is left out: nothing is asked
    after an end.

    Raises:
        EditorError: a prompt has no token at all.
    """
    found = []
    for prompt, ids in zip(prompts, _ids(tokenizer, prompts), strict=True):
        closed = len(ids) > 1 and ids[-1] == tokenizer.eos_token_id
        if closed and not prompt.endswith(str(tokenizer.eos_token)):
            ids = ids[:-1]
        if not ids:
            raise EditorError(f"prompt {prompt!r} has no tokens")
        found.append(tuple(ids))
    return found


def _ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    found: list[list[int]] = []
    for start in range(0, len(prompts), ENCODED_AT_ONCE):  # what comes with the ids takes memory
        found += tokenizer(list(prompts[start : start + ENCODED_AT_ONCE]))["input_ids"]
    return found


def encode_pair(
    tokenizer: PreTrainedTokenizerBase, prompt: str, target: str, *, stop: bool, context: int | None
) -> Row:
    """:func:`encode_pairs` of one, which is to fit.

    Raises:
        PromptTooLong: as :func:`require_fit`.
    """
    [row] = encode_pairs(tokenizer, [(prompt, target)], stop=stop)
    require_fit(row, prompt, context)
    return row


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], *, stop: bool
) -> list[Row]:
    """Prompts continued by targets, and by the end-of-sequence token where ``stop``.

    A prompt keeps exactly the tokens it has on its own, so that training sees what inference sees.

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
        else:  # the boundary merges: take the target's tokens alone
            tail = tuple(tokenizer(f" {target}", add_special_tokens=False)["input_ids"])
        rows.append(Row((*head, *tail, *([end] if stop else [])), len(head)))
    return rows


def require_fit(row: Row, prompt: str, context: int | None) -> None:
    """See that a row is no longer than the model's ``context`` (None: unlimited).

    Raises:
        PromptTooLong: it is; ``prompt`` is named.
    """
    if context is not None and len(row.ids) > context:
        raise PromptTooLong(
            f"prompt and target have {len(row.ids)} tokens, the model takes {context}: "
            f"{_short(prompt)}",
            "shorten the prompt",
        )


def fits(tokenizer: PreTrainedTokenizerBase, prompt: str, context: int | None) -> bool:
    """The prompt is no longer than the model's ``context`` (``None``: unlimited)."""
    return context is None or len(encode_prompt(tokenizer, prompt)) <= context


def pad(
    rows: Sequence[Row],
    pad_id: int,
    side: Literal["left", "right"],
    device: torch.device | str = "cpu",
) -> Batch:
    """Rows padded to the longest, on ``side``; ``mask`` tells the pads."""
    longest = max(len(row.ids) for row in rows)
    ids, mask = [], []
    for row in rows:
        token, real, more = list(row.ids), [1] * len(row.ids), longest - len(row.ids)
        pads, unreal = [pad_id] * more, [0] * more
        ids.append(pads + token if side == "left" else token + pads)
        mask.append(unreal + real if side == "left" else real + unreal)
    lengths = torch.tensor([row.prompt_length for row in rows])
    return Batch(torch.tensor(ids).to(device), torch.tensor(mask).to(device), lengths.to(device))


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id to pad with: the pad token, else the end-of-sequence token, else 0 (unseen)."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _short(text: str, width: int = 60) -> str:
    return repr(text if len(text) <= width else text[: width - 3] + "...")
