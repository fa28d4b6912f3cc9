"""The templates of a calibration: which ask the same question, and which share a subject."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from editors.scope.phrasings import Phrasings

SUBJECT = "{s}"  # stands for the subject in a template
USES = 3  # a prompt that occurs with this many subjects is a template


@dataclass(frozen=True, slots=True)
class Templates:
    """Prompts with ``SUBJECT`` in place of the subject.

    ``centroids``: float32 ``[templates, rank]``, the mean key of each; ``questions``: int64
    ``[templates]``, the number of the question that each asks; ``share_subject``: bool
    ``[questions, questions]``, whether both questions are asked about some subject.
    """

    texts: tuple[str, ...]
    centroids: torch.Tensor
    questions: torch.Tensor
    share_subject: torch.Tensor

    @staticmethod
    def of(groups: Sequence[Phrasings], keys: torch.Tensor) -> Templates:
        """The prompts that occur with several subjects. Templates of one group ask one question.

        ``keys``: float32 ``[groups, forms, rank]``; the last form of a group has a prefix.
        """
        uses: dict[str, dict[str, torch.Tensor]] = {}  # text -> subject -> key
        alike: dict[str, set[str]] = {}  # text -> the texts that ask the same question
        for group, group_keys in zip(groups, keys, strict=True):
            of_group: set[str] = set()
            for prompt, key in zip(group.prompts, group_keys[:-1], strict=False):
                if prompt.count(group.subject) == 1 and SUBJECT not in prompt:
                    text = prompt.replace(group.subject, SUBJECT)
                    uses.setdefault(text, {})[group.subject] = key
                    of_group |= {text, *alike.get(text, ())}
            alike.update(dict.fromkeys(of_group, of_group))
        repeated = {text: keyed for text, keyed in uses.items() if len(keyed) >= USES}
        if not repeated:
            nothing = torch.zeros(0, dtype=torch.long)
            return Templates((), keys[0, :0], nothing, torch.zeros(0, 0, dtype=torch.bool))
        means = [torch.stack([*by_subject.values()]).mean(0) for by_subject in repeated.values()]
        # The first text of a question in the alphabet stands for the question.
        questions = numbered(min(alike[text]) for text in repeated)
        asked_of: list[set[str]] = [set() for _ in {*questions}]  # the subjects of each question
        for question, by_subject in zip(questions, repeated.values(), strict=True):
            asked_of[question].update(by_subject)
        share_subject = [[not one.isdisjoint(other) for other in asked_of] for one in asked_of]
        return Templates(
            tuple(repeated),
            F.normalize(torch.stack(means), dim=-1),
            torch.tensor(questions),
            torch.tensor(share_subject),
        )

    def unlike(self, keys: torch.Tensor, named: float, same: float) -> list[int]:
        """The numbers of the templates that ask something else than a fact, the most similar first.

        ``keys``: float32 ``[n, rank]``, the keys of the fact, the key of its prompt first. A
        template asks the question of the fact if its similarity is at least ``same``. Then the
        templates of that question are left out. So are the templates of similar questions (mean
        similarity at least ``named``) that share no subject with it, as those ask the same about
        another type of subject.
        """
        if not self.texts:
            return []
        similarity = self.centroids @ keys.T  # [templates, keys]
        order = similarity[:, 0].argsort(descending=True)
        if float(similarity[order[0], 0]) >= same:
            question = self.questions[order[0]]
            means = torch.zeros(len(self.share_subject)).scatter_reduce(
                0, self.questions, similarity.amax(1), "mean", include_self=False
            )
            alike = ~self.share_subject[question] & (means >= named)
            alike[question] = True
            order = order[~alike[self.questions[order]]]
        return order.tolist()


def numbered(values: Iterable[str]) -> list[int]:
    """For each of ``values``, its number among the different values, in the order of their first
    occurrence."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(value, len(numbers)) for value in values]
