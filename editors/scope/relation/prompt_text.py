"""The text of a prompt as a person reads it: without special tokens and the roles of turns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from transformers import PreTrainedTokenizerBase

from editors.model.tokenization import Ids

# A chat template writes the role of a turn after a special token.
_ROLE = re.compile(r"\A\s*(system|user|assistant|model|developer|tool)\s*(\n|\Z)")


def prompt_texts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Ids]) -> list[str]:
    """The text of each prompt. Special tokens part it into turns, each on lines of its own; turns
    without text are left out."""
    special = set(tokenizer.all_special_ids)
    segments: list[list[int]] = []
    counts = []
    for prompt in prompts:
        runs = groupby(prompt, special.__contains__)
        between = [[*ids] for is_special, ids in runs if not is_special]
        segments += between
        counts.append(len(between))
    decoded = iter(tokenizer.batch_decode(segments) if segments else [])
    texts = []
    for count in counts:
        parts: list[str] = [next(decoded) for _ in range(count)]
        if count == 1:  # no chat: only the token that begins every text may be special
            texts += parts
            continue
        turns = [_ROLE.sub("", part, count=1).strip() for part in parts]
        texts.append("\n".join(turn for turn in turns if turn))
    return texts
