"""A model, edited or not, as lm-evaluation-harness asks it.

The harness scores an answer in one forward over the prompt and the answer. An edit is decided by
the prompt alone, as it is when the model answers. So the harness is told where the prompt ends: its
own class would have the answer, which may be a wrong one, decided with the prompt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from editors.inference.edited_model import EditedModel

Scored = tuple[Any, list[int], list[int]]
"""What the harness has scored: its texts, and the ids of the prompt and of the answer."""


class HarnessModel(HFLM):  # type: ignore[misc]
    """``edited``: what answers, a base with what is attached to it. One row is computed at a time,
    so that a prompt that no edit claims gets the numbers of the base, bit for bit.

    A text that is scored as a whole has nothing but the first token for its prompt, so no edit
    claims it.
    """

    def __init__(self, edited: EditedModel) -> None:
        base = edited.base
        super().__init__(base.model, tokenizer=deepcopy(base.tokenizer), batch_size=1)
        self.edited = edited

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        found: list[tuple[float, bool]] = super().loglikelihood(
            [*self._rewritten(requests)], disable_tqdm=disable_tqdm
        )
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        found: list[str] = super().generate_until(
            [*self._rewritten(requests)], disable_tqdm=disable_tqdm
        )
        return found

    def _rewritten(self, requests: Sequence[Any]) -> Iterator[Any]:
        """The requests with their prompts as the model is to see them."""
        for request in requests:
            prompt, *rest = request.args
            [(seen, _)] = self.edited.rewritten([prompt]) if prompt else [(prompt, None)]
            yield replace(request, arguments=(seen, *rest))

    def _loglikelihood_tokens(
        self, requests: Sequence[Scored], *args: Any, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        by_length: dict[int, list[int]] = defaultdict(list)
        for number, (_, prompt, answer) in enumerate(requests):
            by_length[self._seen(len(prompt), len(answer))].append(number)
        found: dict[int, tuple[float, bool]] = {}
        for length, numbers in by_length.items():
            with self.edited.scoring(torch.tensor([length])):
                scores = super()._loglikelihood_tokens(
                    [requests[number] for number in numbers], *args, **kwargs
                )
            found |= zip(numbers, scores, strict=True)
        return [found[number] for number in range(len(requests))]

    def _seen(self, prompt: int, answer: int) -> int:
        """How many tokens of the prompt fit before the answer, whose last token is not read."""
        return min(prompt, int(self.max_length) + 1 - answer)
