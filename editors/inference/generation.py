"""Free-running greedy answers: the text that a user of the model would read."""

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
"""From the ids so far ``[rows, seq]`` and the model's logits ``[rows, vocab]`` to the logits
``[rows, vocab]`` that the next tokens are chosen by."""

Combine = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From the next-token logits ``[rows, vocab]`` of each row's two prompts to those of the row."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The ``text`` of an answer, whether the model ``stopped`` by itself, and the ``decision`` on
    the prompt (None without a router or rewriter)."""

    text: str
    stopped: bool
    decision: Decision | None = None


@torch.inference_mode()
def answers(model: EditedModel, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Answer]:
    """The greedy answer to each prompt, of at most ``max_new_tokens`` tokens, fewer if the model's
    context has less room.

    The generation settings of the checkpoint are ignored. Prompts of equal length are answered
    together, so that no row is padded. Text after the first end-of-sequence token is dropped, and
    so is white space at both ends.

    Raises:
        PromptTooLong: a prompt leaves no room for an answer.
        EditorError: a prompt cannot be encoded.
    """
    base = model.base
    rewritten = model.rewritten(prompts)
    encoded = encode_prompts(base.tokenizer, [prompt for prompt, _ in rewritten])
    room = [_room(base, prompt, len(ids)) for prompt, ids in zip(prompts, encoded, strict=True)]
    answered: list[Answer | None] = [None] * len(prompts)
    budget = Budget(pads=0, logits_per_row=base.vocabulary)
    for members in batches([len(ids) for ids in encoded], budget):
        batch = base.batch([Row.of_prompt(encoded[i]) for i in members])
        with model.noting() as calls:
            out = decode(base, batch.ids, min(max_new_tokens, room[members[0]]))
        decisions = model.decisions(calls)
        for row, ids in enumerate(out[:, batch.ids.shape[1] :].tolist()):
            text, stopped = read(base, ids)
            decision = rewritten[members[row]][1] or (decisions[row] if decisions else None)
            answered[members[row]] = Answer(text, stopped, decision)
    return [answer for answer in answered if answer is not None]


def _room(base: Base, prompt: Prompt, tokens: int) -> int:
    """The number of tokens that may follow ``prompt``, of which the model sees ``tokens``."""
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
    prompts: Sequence[str],
    partners: Sequence[str],
    max_new_tokens: int,
    combine: Combine,
) -> list[Answer]:
    """One greedy answer to each pair of a prompt and a partner.

    Each next token is chosen for the pair and continues both of its prompts. The decision of an
    answer is the decision on the prompt, not the partner.

    ``combine(of_prompts, of_partners)``: the logits ``[rows, vocab]`` that tokens are chosen by,
    from two float32 ``[rows, vocab]``. The first half of a batch holds the prompts and the second
    half the partners, in the same order, so each forward is two runs. Pairs are answered together
    if their longer prompts have equal length. So the padding, on the left of the shorter prompt,
    depends on the pair alone.

    Raises:
        EditorError: there are not as many partners as prompts, or a prompt cannot be encoded.
    """
    if len(prompts) != len(partners):
        raise EditorError(
            f"{len(prompts)} prompts cannot be paired with {len(partners)}", "give one for each"
        )
    base = model.base
    rewritten = model.rewritten(prompts)
    first, second = (
        encode_prompts(base.tokenizer, [prompt for prompt, _ in texts])
        for texts in (rewritten, model.rewritten(partners))
    )
    longer = [max(len(a), len(b)) for a, b in zip(first, second, strict=True)]
    answered: list[Answer | None] = [None] * len(prompts)
    budget = Budget(rows=128, pads=0, logits_per_row=2 * base.vocabulary)
    for members in batches(longer, budget):
        rows = [Row.of_prompt(side[i]) for side in (first, second) for i in members]
        batch = base.batch(rows, side="left")
        with model.noting() as calls:
            out = decode(base, batch.ids, max_new_tokens, batch.mask, _InStep(combine))
        decisions = model.decisions(calls)
        for row, ids in enumerate(out[: len(members), batch.ids.shape[1] :].tolist()):
            text, stopped = read(base, ids)
            decision = rewritten[members[row]][1] or (decisions[row] if decisions else None)
            answered[members[row]] = Answer(text, stopped, decision)
    return [answer for answer in answered if answer is not None]


@torch.inference_mode()
def greedy_logits(base: Base, ids: torch.Tensor, steps: int) -> list[torch.Tensor]:
    """The logits ``[rows, vocab]`` of each of ``steps`` greedy tokens after ``ids`` ``[rows,
    seq]``. No row stops earlier."""
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
    """int64 ``[rows, columns]``: ``ids`` ``[rows, seq]`` and the tokens that follow, each the
    likeliest.

    ``mask``: int64 ``[rows, seq]``, 0 at pads; None: no pads. ``choose``: changes the logits that
    tokens are chosen by. The generation settings of the checkpoint are ignored, except for the
    tokens that end a text.
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
    # Not as an argument, as generate takes what that leaves unset from the checkpoint's settings.
    checkpoint_config = base.model.generation_config
    base.model.generation_config = config
    try:
        yield
    finally:
        base.model.generation_config = checkpoint_config


@dataclass(frozen=True, slots=True)
class _InStep:
    """Gives both halves of a batch the same logits, so that both continue with the same token."""

    combine: Combine

    def __call__(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return self.combine(*logits.chunk(2)).repeat(2, 1)  # [2 * rows, vocab]


def read(base: Base, ids: Sequence[int]) -> tuple[str, bool]:
    """The text of the generated ``ids`` before the first end-of-sequence token, and whether there
    is such a token."""
    ends = stop_ids(base)
    end = next((position for position, token in enumerate(ids) if token in ends), None)
    text: str = base.tokenizer.decode(list(ids[:end]), skip_special_tokens=True)
    return text.strip(), end is not None


def stop_ids(base: Base) -> set[int]:
    """The ids that end an answer: those of the checkpoint and of the tokenizer."""
    configured = base.model.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return {token for token in (*several, base.tokenizer.eos_token_id) if token is not None}
