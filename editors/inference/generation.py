"""Free-running greedy answers: what a user of the model would read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from editors.errors import EditorError
from editors.model.base_model import Base
from editors.model.tokenization import Row, encode_prompts

ROWS_AT_ONCE = 256

Merge = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""One ``[rows, vocab]`` of next-token logits from those of two prompts for each row."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said after a prompt, and whether it stopped by itself."""

    text: str
    stopped: bool


@torch.inference_mode()
def answers(base: Base, prompts: Sequence[str], max_new_tokens: int) -> list[Answer]:
    """The greedy answer to each prompt, up to ``max_new_tokens`` tokens.

    Prompts of one length are answered together, so that no row is padded. Text after the first
    end-of-sequence token does not count; white space at both ends is dropped.
    """
    encoded = encode_prompts(base.tokenizer, prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    found: dict[int, Answer] = {}
    for _, group in groupby(order, key=lambda i: len(encoded[i])):
        same_length = list(group)
        for start in range(0, len(same_length), ROWS_AT_ONCE):
            part = same_length[start : start + ROWS_AT_ONCE]
            batch = base.batch([Row(encoded[i], len(encoded[i])) for i in part], side="left")
            out = base.model.generate(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                pad_token_id=pad(base),
            )
            for i, ids in zip(part, out[:, batch.ids.shape[1] :].tolist(), strict=True):
                found[i] = read(base, ids)
    return [found[i] for i in range(len(prompts))]


@torch.inference_mode()
def paired_answers(
    base: Base, ones: Sequence[str], others: Sequence[str], max_new_tokens: int, merge: Merge
) -> list[Answer]:
    """One greedy answer to each pair of prompts, both continued by the token chosen for the two.

    ``merge(of_ones, of_others)``: the logits ``[rows, vocab]``, float32, to choose from. In a
    batch the ones are its first half and the others, in the same order, its second: each forward
    is two runs. Pairs whose longer prompt is of one length are answered together, so that padding,
    on the left of the shorter, depends on the pair alone.

    Raises:
        EditorError: there are not as many ones as others.
    """
    if len(ones) != len(others):
        raise EditorError(
            f"{len(ones)} prompts cannot be paired with {len(others)}", "give one for each"
        )
    first, second = (
        [Row(ids, len(ids)) for ids in encode_prompts(base.tokenizer, texts)]
        for texts in (ones, others)
    )
    longer = [max(len(a.ids), len(b.ids)) for a, b in zip(first, second, strict=True)]
    order = sorted(range(len(ones)), key=longer.__getitem__)
    found: dict[int, Answer] = {}
    for length, group in groupby(order, key=longer.__getitem__):
        same_length = list(group)
        for start in range(0, len(same_length), ROWS_AT_ONCE // 2):
            part = same_length[start : start + ROWS_AT_ONCE // 2]
            batch = base.batch([*(first[i] for i in part), *(second[i] for i in part)], side="left")
            out = base.model.generate(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                pad_token_id=pad(base),
                logits_processor=[_InStep(merge)],
            )
            for i, ids in zip(part, out[: len(part), length:].tolist(), strict=True):
                found[i] = read(base, ids)
    return [found[i] for i in range(len(ones))]


@dataclass(frozen=True, slots=True)
class _InStep:
    """Gives both halves of a batch the same logits, so that they go on by the same token."""

    merge: Merge

    def __call__(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return self.merge(*logits.chunk(2)).repeat(2, 1)  # [2 * rows, vocab]


def read(base: Base, ids: list[int]) -> Answer:
    """The generated ``ids`` as an answer: up to the first end-of-sequence token."""
    ends = stops(base)
    end = next((place for place, token in enumerate(ids) if token in ends), None)
    text = base.tokenizer.decode(ids if end is None else ids[:end], skip_special_tokens=True)
    return Answer(text.strip(), end is not None)


def stops(base: Base) -> set[int]:
    configured = base.model.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return {token for token in (*several, base.tokenizer.eos_token_id) if token is not None}


def pad(base: Base) -> int:
    """The id that follows the end of a row which stops before others of its batch."""
    token = base.tokenizer.pad_token_id
    return int(token if token is not None else next(iter(stops(base)), 0))
