"""Free-running greedy answers: the text that a user of the model would read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from transformers import GenerationConfig

from editors.errors import EditorError
from editors.inference.batching import Budget
from editors.inference.decisions import Decision
from editors.inference.edited_model import EditedModel
from editors.model.base_model import Base
from editors.model.tokenization import Batch, Prompt, pad_id
from editors.text_matching import plain_words

T = TypeVar("T")

Choose = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From the ids so far ``[rows, seq]`` and the model's logits ``[rows, vocab]`` to the logits
``[rows, vocab]`` that the next tokens are chosen by."""

Ends = Callable[..., torch.Tensor]
"""From the ids so far ``[rows, seq]`` and the scores of their tokens to bool ``[rows]``: which rows
end."""

Combine = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From the next-token logits ``[rows, vocab]`` of each row's two prompts to those of the row."""


FirstStep = Callable[[torch.Tensor, Sequence[int]], Sequence[T]]

ROWS_BEGUN = 32  # answered together
TOKENS_PADDED = 2048  # of their prompts, pads included
PADS_BEGUN = 128  # among them; so few tokens are answered that pads cost much

# Kinds of rotary positions that depend on the longest row of a batch.
LONGEST_COUNTS = {"dynamic", "longrope"}


@dataclass(frozen=True, slots=True)
class Answer:
    """The ``text`` of an answer, whether the model ``stopped`` by itself, and the ``decision`` on
    the prompt (None without a router or rewriter)."""

    text: str
    stopped: bool
    decision: Decision | None = None


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
    return _answers(model, [prompts], max_new_tokens)


def begun_answers(
    model: EditedModel,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    first_words: int | None,
    first_step: FirstStep[T],
    on_prompts: Callable[[int], None] = lambda _: None,
) -> list[tuple[Answer, T]]:
    """The beginning of the greedy answer to each prompt, and what ``first_step`` gives for it.

    An answer ends as in :func:`answers`, or once its ``first_words`` are complete, as the next one
    has begun (None: it does not). ``first_step(logits, numbers)``: one result for each row of the
    logits ``[rows, vocab]`` of the first tokens of the answers to the prompts with these
    ``numbers``. ``on_prompts`` is called with the number of further prompts that are answered.

    Prompts of similar length are answered together, as :func:`padded_budget` allows. Raises the
    errors of :func:`answers`.
    """
    base = model.base
    context = base.architecture.context or sys.maxsize

    def run(batch: Batch, numbers: list[int]) -> list[tuple[Answer, T]]:
        columns = batch.ids.shape[1]
        firsts: list[T] = []

        def read_first(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            if ids.shape[1] == columns:
                firsts.extend(first_step(logits, numbers))
            return logits

        ends = None if first_words is None else _FirstWords(base, columns, first_words)
        tokens = min(max_new_tokens, context - columns)
        out = decode(base, batch.ids, tokens, batch.mask, read_first, ends=ends)
        rows = out.tolist() if ends is None else ends.cut(out.tolist())
        on_prompts(len(numbers))
        texts = (read(base, ids) for ids in rows)
        return [(Answer(*said), first) for said, first in zip(texts, firsts, strict=True)]

    budget = padded_budget(base, ROWS_BEGUN, PADS_BEGUN)
    return [
        (replace(answer, decision=decision), first)
        for (answer, first), decision in model.run([prompts], budget, run, room=1)
    ]


def padded_budget(base: Base, rows: int, pads: int) -> Budget:
    """What a batch of prompts that are padded on the left may hold: at most ``rows`` rows and
    ``pads`` pads.

    It has no pads where they, or longer rows beside a row, would change what the model says: where
    blocks mix tokens by other means than attention, or rotary positions depend on the longest row.
    """
    attention_only = all(block.attention_out for block in base.architecture.blocks)
    if not attention_only or _rotary_kinds(base) & LONGEST_COUNTS:
        pads = 0
    return Budget(rows=rows, tokens=TOKENS_PADDED, pads=pads, logits_per_row=base.vocabulary)


def _rotary_kinds(base: Base) -> set[object]:
    """The kinds of rotary positions of the model: one, or one for each kind of block."""
    config = base.model.config.get_text_config(decoder=True)
    parameters = getattr(config, "rope_parameters", None) or {}
    by_block = [value for value in parameters.values() if isinstance(value, dict)]
    return {kind.get("rope_type") for kind in by_block or [parameters]}


class _FirstWords:
    """Ends each row of a generation once its first ``count`` words are complete.

    It is a stopping criterion of ``generate``. ``columns``: those of the prompts.
    """

    def __init__(self, base: Base, columns: int, count: int) -> None:
        self._base, self._columns, self._count = base, columns, count
        self._lengths: dict[int, int] = {}  # by row, the tokens that hold the words

    def __call__(self, ids: torch.Tensor, scores: object, **kwargs: Any) -> torch.Tensor:
        """bool ``[rows]``: whether each row ends. ``ids``: int64 ``[rows, seq]``."""
        for number, row in enumerate(ids[:, self._columns :].tolist()):
            if number not in self._lengths:
                text, _ = read(self._base, row)
                if len(plain_words(text)) > self._count:
                    self._lengths[number] = len(row)
        ended = [number in self._lengths for number in range(len(ids))]
        return torch.tensor(ended, device=ids.device)

    def cut(self, rows: list[list[int]]) -> list[list[int]]:
        """The rows of ids, each up to where it ended."""
        return [row[: self._lengths.get(number)] for number, row in enumerate(rows)]


def paired_answers(
    model: EditedModel,
    prompts: Sequence[str],
    partners: Sequence[str],
    max_new_tokens: int,
    combine: Combine,
) -> list[Answer]:
    """One greedy answer to each pair of a prompt and a partner, of at most ``max_new_tokens``
    tokens, fewer if the model's context has less room.

    Each next token is chosen for the pair and continues both of its prompts. The decision of an
    answer is the decision on the prompt, not the partner.

    ``combine(of_prompts, of_partners)``: the logits ``[rows, vocab]`` that tokens are chosen by,
    from two float32 ``[rows, vocab]``. The first half of a batch holds the prompts and the second
    half the partners, in the same order, so each forward is two runs. Pairs are answered together
    if their longer prompts have equal length. So the padding, on the left of the shorter prompt,
    depends on the pair alone.

    Raises:
        PromptTooLong: a prompt or a partner leaves no room for an answer.
        EditorError: there are not as many partners as prompts, or a prompt cannot be encoded.
    """
    if len(prompts) != len(partners):
        raise EditorError(
            f"{len(prompts)} prompts cannot be paired with {len(partners)}", "give one for each"
        )

    def in_step(_: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return combine(*logits.chunk(2)).repeat(2, 1)  # [2 * rows, vocab]

    return _answers(model, [prompts, partners], max_new_tokens, in_step)


def _answers(
    model: EditedModel,
    sides: Sequence[Sequence[Prompt]],
    max_new_tokens: int,
    choose: Choose | None = None,
) -> list[Answer]:
    base = model.base
    context = base.architecture.context or sys.maxsize

    def run(batch: Batch, numbers: Sequence[int]) -> list[tuple[str, bool]]:
        tokens = min(max_new_tokens, context - batch.ids.shape[1])
        out = decode(base, batch.ids, tokens, batch.mask, choose)
        return [read(base, ids) for ids in out[: len(numbers)].tolist()]

    count = len(sides)
    budget = Budget(rows=256 // count, pads=0, logits_per_row=count * base.vocabulary)
    return [Answer(*said, decision) for said, decision in model.run(sides, budget, run, room=1)]


def greedy_logits(base: Base, ids: torch.Tensor, steps: int) -> torch.Tensor:
    """float32 ``[steps, rows, vocab]``: the logits of each of ``steps`` greedy tokens after ``ids``
    ``[rows, seq]``. No row stops earlier."""
    kept: list[torch.Tensor] = []

    def keep(_: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        kept.append(logits)
        return logits

    decode(base, ids, steps, choose=keep, stops=False)
    return torch.stack(kept)


@torch.inference_mode()
def decode(
    base: Base,
    ids: torch.Tensor,
    max_new_tokens: int,
    mask: torch.Tensor | None = None,
    choose: Choose | None = None,
    *,
    stops: bool = True,
    ends: Ends | None = None,
) -> torch.Tensor:
    """int64 ``[rows, columns]``: the tokens that follow ``ids`` ``[rows, seq]``, each the
    likeliest.

    ``mask``: int64 ``[rows, seq]``, 0 at pads; None: no pads. ``choose``: changes the logits that
    tokens are chosen by. ``ends``: ends rows early, after which their tokens have no meaning. The
    generation settings of the checkpoint are ignored, except for the tokens that end a text, which
    do so only if ``stops``.
    """
    checkpoint_config = base.model.generation_config
    # Not as an argument, as generate takes what that leaves unset from the checkpoint's settings.
    base.model.generation_config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        use_cache=True,
        eos_token_id=sorted(stop_ids(base) if stops else ()) or None,
        pad_token_id=pad_id(base.tokenizer),
    )
    try:
        out: torch.Tensor = base.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids) if mask is None else mask,
            logits_processor=[] if choose is None else [choose],
            stopping_criteria=[] if ends is None else [ends],
        )
    finally:
        base.model.generation_config = checkpoint_config
    return out[:, ids.shape[1] :]


def read(base: Base, ids: Sequence[int]) -> tuple[str, bool]:
    """The text of the generated ``ids`` before the first end-of-sequence token, and whether there
    is such a token."""
    ends = stop_ids(base)
    end = next((position for position, token in enumerate(ids) if token in ends), None)
    return text_of(base, ids[:end]).strip(), end is not None


def text_of(base: Base, ids: Sequence[int]) -> str:
    """The text of ``ids`` without special tokens."""
    text: str = base.tokenizer.decode(list(ids), skip_special_tokens=True)
    return text


def stop_ids(base: Base) -> set[int]:
    """The ids that end an answer: those of the checkpoint and of the tokenizer."""
    configured = base.model.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return {token for token in (*several, base.tokenizer.eos_token_id) if token is not None}
