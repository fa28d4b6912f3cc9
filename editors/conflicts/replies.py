"""What a model says to prompts, each of which it is asked once.

Questions, rows and checks share many prompts. And of an answer only the first words are searched,
so that no more of it is generated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from editors.conflicts.cases import Outcome, outcome_of, searched_words
from editors.inference.edited_model import EditedModel
from editors.inference.generation import Answer, begun_answers
from editors.model.base_model import Base
from editors.model.tokenization import answer_limit

MIN_REPLY_TOKENS = 10  # a reply may have at least this many tokens (JuICE, arXiv 2503.10996)


@dataclass(frozen=True, slots=True)
class Reply:
    """The beginning of an answer.

    ``first``: the id of the likeliest first token; ``probabilities``: those of the first tokens
    that were asked for, by id.
    """

    answer: Answer
    first: int
    probabilities: Mapping[int, float]

    def outcome(self, candidates: Mapping[Outcome, str]) -> Outcome:
        """The candidate that the answer names, as :func:`~editors.conflicts.cases.outcome_of`."""
        return outcome_of(self.answer.text, candidates)[0]


def reply_tokens(base: Base, sought: Sequence[str]) -> int:
    """The most tokens of a reply that is searched for these answers."""
    return max(answer_limit(base.tokenizer, sought), MIN_REPLY_TOKENS)


class Replies:
    """The replies of a base, with everything that is attached to it."""

    def __init__(
        self,
        model: EditedModel,
        sought: Iterable[str],
        on_prompts: Callable[[int], None] = lambda _: None,
    ) -> None:
        """``sought``: all answers that replies are searched for, which tell how long a reply may
        be; ``on_prompts`` is called with the number of further prompts that are answered."""
        texts = list(sought)
        self.model = model
        self._words = max(map(searched_words, texts), default=0)
        self._tokens = reply_tokens(model.base, texts)
        self._on_prompts = on_prompts
        self._replies: dict[str, Reply] = {}

    def ask(
        self, prompts: Sequence[str], tokens: Sequence[Sequence[int]] | None = None
    ) -> list[Reply]:
        """The reply to each prompt. Only prompts run whose reply is not known.

        ``tokens``: for each prompt, the ids whose probability as the first token is asked for.

        Raises:
            PromptTooLong: a prompt leaves no room for an answer.
        """
        wanted: dict[str, set[int]] = {}
        for prompt, ids in zip(prompts, tokens or [()] * len(prompts), strict=True):
            wanted.setdefault(prompt, set()).update(ids)
        unknown = [
            prompt
            for prompt, ids in wanted.items()
            if prompt not in self._replies or not ids <= self._replies[prompt].probabilities.keys()
        ]

        def first_step(
            logits: torch.Tensor, numbers: Sequence[int]
        ) -> list[tuple[int, dict[int, float]]]:
            likeliest = logits.argmax(-1).tolist()
            chances = logits.float().softmax(-1)
            return [
                (first, {token: float(row[token]) for token in wanted[unknown[number]]})
                for first, row, number in zip(likeliest, chances, numbers, strict=True)
            ]

        begun = begun_answers(
            self.model, unknown, self._tokens, self._words, first_step, self._on_prompts
        )
        for prompt, (answer, (first, probabilities)) in zip(unknown, begun, strict=True):
            self._replies[prompt] = Reply(answer, first, probabilities)
        return [self._replies[prompt] for prompt in prompts]
