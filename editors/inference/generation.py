"""Free-running greedy answers: what a user of the model would read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import GenerationConfig

from editors.errors import EditorError, PromptTooLong
from editors.inference.batching import Budget, batches
from editors.inference.decisions import Decision
from editors.inference.edited_model import EditedModel
from editors.model.base_model import Base
from editors.model.tokenization import SHOWN, Prompt, Row, encode_prompts, pad_id

Choose = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits to choose a token from, of the ids so far and the model's logits ``[rows, vocab]``."""

Combine = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""One ``[rows, vocab]`` of next-token logits from those of two prompts for each row."""

EXTRA_TOKENS = 4  # that an answer may run past the longest one known before it counts as endless


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said after a prompt, whether it stopped by itself, and what was decided of the
    prompt (None where nothing decides)."""

    text: str
    stopped: bool
    decision: Decision | None = None


@torch.inference_mode()
def answers(model: EditedModel, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Answer]:
    """The greedy answer to each prompt, of at most ``max_new_tokens`` tokens and no more than the
    model's context has room for.

    Greedy decoding of the model itself: the checkpoint's generation settings are left out. Prompts
    of one length are answered together, so that no row is padded. Text after the first
    end-of-sequence token does not count; white space at both ends is dropped.

    Raises:
        PromptTooLong: a prompt leaves no room for an answer.
    """
    base = model.base
    rewritten = model.rewritten(prompts)
    encoded = encode_prompts(base.tokenizer, [prompt for prompt, _ in rewritten])
    room = [_room(base, prompt, len(ids)) for prompt, ids in zip(prompts, encoded, strict=True)]
    found: list[Answer | None] = [None] * len(prompts)
    budget = Budget(pads=0, logits_per_row=base.vocabulary)
    for part in batches([len(ids) for ids in encoded], budget):
        batch = base.batch([Row.of_prompt(encoded[i]) for i in part])
        with model.noting() as calls:
            out = decode(base, batch.ids, min(max_new_tokens, room[part[0]]))
        decisions = model.decisions(calls)
        for row, ids in enumerate(out[:, batch.ids.shape[1] :].tolist()):
            text, stopped = read(base, ids)
            decision = rewritten[part[row]][1] or (decisions[row] if decisions else None)
            found[part[row]] = Answer(text, stopped, decision)
    return [answer for answer in found if answer is not None]


def _room(base: Base, prompt: Prompt, tokens: int) -> int:
    """How many tokens may follow a prompt that has ``tokens`` as the model sees it."""
    context = base.architecture.context
    if context is None:
        return sys.maxsize
    if tokens >= context:
        raise PromptTooLong(
            f"a prompt has {tokens} tokens, and the model takes {context} with its answer: "
            f"{str(prompt)[:SHOWN]!r}",
            "shorten the prompt",
        )
    return context - tokens


@torch.inference_mode()
def paired_answers(
    model: EditedModel,
    ones: Sequence[str],
    others: Sequence[str],
    max_new_tokens: int,
    combine: Combine,
) -> list[Answer]:
    """One greedy answer to each pair of prompts, both continued by the token chosen for the two.

    An answer carries the decision on the one of its pair.

    ``combine(of_ones, of_others)``: the float32 logits ``[rows, vocab]`` to choose from. The first
    half of a batch holds the ones and its second half the others, in the same order, so each
    forward is two runs. Pairs whose longer prompt is of one length are answered together; padding,
    on the left of the shorter, then depends on the pair alone.

    Raises:
        EditorError: there are not as many ones as others.
    """
    if len(ones) != len(others):
        raise EditorError(
            f"{len(ones)} prompts cannot be paired with {len(others)}", "give one for each"
        )
    base = model.base
    rewritten = model.rewritten(ones)
    first, second = (
        encode_prompts(base.tokenizer, [prompt for prompt, _ in texts])
        for texts in (rewritten, model.rewritten(others))
    )
    longer = [max(len(a), len(b)) for a, b in zip(first, second, strict=True)]
    found: list[Answer | None] = [None] * len(ones)
    budget = Budget(rows=128, pads=0, logits_per_row=2 * base.vocabulary)
    for part in batches(longer, budget):
        rows = [Row.of_prompt(side[i]) for side in (first, second) for i in part]
        batch = base.batch(rows, side="left")
        with model.noting() as calls:
            out = decode(base, batch.ids, max_new_tokens, batch.mask, _InStep(combine))
        decisions = model.decisions(calls)
        for row, ids in enumerate(out[: len(part), batch.ids.shape[1] :].tolist()):
            text, stopped = read(base, ids)
            decision = rewritten[part[row]][1] or (decisions[row] if decisions else None)
            found[part[row]] = Answer(text, stopped, decision)
    return [answer for answer in found if answer is not None]


@torch.inference_mode()
def greedy_logits(base: Base, ids: torch.Tensor, steps: int) -> list[torch.Tensor]:
    """For each of ``steps`` tokens after ``ids`` ``[rows, seq]`` the logits ``[rows, vocab]`` that
    it is chosen from, greedily; no row stops before."""
    config = GenerationConfig(
        max_new_tokens=steps,
        do_sample=False,
        use_cache=True,
        output_logits=True,
        return_dict_in_generate=True,
    )
    with _configured(base, config):
        out = base.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids))
    return list(out.logits)


@torch.inference_mode()
def decode(
    base: Base,
    ids: torch.Tensor,
    max_new_tokens: int,
    mask: torch.Tensor | None = None,
    choose: Choose | None = None,
) -> torch.Tensor:
    """int64 ``[rows, columns]``: ``ids`` and what follows, the likeliest token each time.

    ``choose``: makes of the ids so far and the model's logits ``[rows, vocab]`` those to choose
    from. The checkpoint's generation settings are left out, except for the tokens that end a text.
    """
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        use_cache=True,
        eos_token_id=sorted(stop_ids(base)) or None,
        pad_token_id=pad_id(base.tokenizer),
    )
    with _configured(base, config):
        out: torch.Tensor = base.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids) if mask is None else mask,
            logits_processor=[] if choose is None else [choose],
        )
    return out


@contextmanager
def _configured(base: Base, config: GenerationConfig) -> Iterator[None]:
    # An argument would not do: what it leaves unset, generate takes from the checkpoint's own.
    own = base.model.generation_config
    base.model.generation_config = config
    try:
        yield
    finally:
        base.model.generation_config = own


@dataclass(frozen=True, slots=True)
class _InStep:
    """Gives both halves of a batch the same logits, so that they go on by the same token."""

    combine: Combine

    def __call__(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return self.combine(*logits.chunk(2)).repeat(2, 1)  # [2 * rows, vocab]


def read(base: Base, ids: Sequence[int]) -> tuple[str, bool]:
    """The text of generated ``ids`` up to the first end-of-sequence token, and whether there is
    one."""
    ends = stop_ids(base)
    end = next((place for place, token in enumerate(ids) if token in ends), None)
    text: str = base.tokenizer.decode(list(ids[:end]), skip_special_tokens=True)
    return text.strip(), end is not None


def stop_ids(base: Base) -> set[int]:
    """The tokens that end an answer: the checkpoint's and the tokenizer's."""
    configured = base.model.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return {token for token in (*several, base.tokenizer.eos_token_id) if token is not None}
