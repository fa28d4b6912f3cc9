"""Which prompts of a calibration ask one question, and which questions are asked of one subject."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from editors.scope.phrasings import Phrasings

SUBJECT = "{s}"  # where a template takes its subject
USES = 3  # a prompt that is put to so many subjects is a template


@dataclass(frozen=True, slots=True)
class Templates:
    """Prompts with ``SUBJECT`` in the place of the subject.

    ``centroids``: float32 ``[templates, rank]``, their mean keys; ``questions``: int64
    ``[templates]``, which question each asks; ``beside``: bool ``[questions, questions]``, those
    that are both asked about one subject.
    """

    texts: tuple[str, ...]
    centroids: torch.Tensor
    questions: torch.Tensor
    beside: torch.Tensor

    @staticmethod
    def of(groups: Sequence[Phrasings], keys: torch.Tensor) -> Templates:
        """The prompts that several subjects share. Those that stand in one group ask the same.

        ``keys``: ``[groups, forms, rank]``; the last form of a group is a prefixed one.
        """
        uses: dict[str, dict[str, torch.Tensor]] = {}  # text -> subject -> key
        same = _UnionFind()
        for group, own in zip(groups, keys, strict=True):
            together = []
            for prompt, key in zip(group.prompts, own[:-1], strict=False):
                if prompt.count(group.subject) == 1 and SUBJECT not in prompt:
                    together.append(prompt.replace(group.subject, SUBJECT))
                    uses.setdefault(together[-1], {})[group.subject] = key
            same.join(together)
        used = {text: by_subject for text, by_subject in uses.items() if len(by_subject) >= USES}
        if not used:
            nothing = torch.zeros(0, dtype=torch.long)
            return Templates((), keys.new_zeros(0, keys.shape[-1]), nothing, torch.zeros(0, 0) > 0)
        means = [torch.stack([*by_subject.values()]).mean(0) for by_subject in used.values()]
        numbers = {root: n for n, root in enumerate(dict.fromkeys(map(same.root, used)))}
        questions = torch.tensor([numbers[same.root(text)] for text in used])
        subjects = {name: n for n, name in enumerate(dict.fromkeys(g.subject for g in groups))}
        asked = torch.zeros(len(numbers), len(subjects))  # of which subjects
        for question, by_subject in zip(questions.tolist(), used.values(), strict=True):
            asked[question, [subjects[subject] for subject in by_subject]] = 1
        centroids = F.normalize(torch.stack(means), dim=-1)
        return Templates(tuple(used), centroids, questions, asked @ asked.T > 0)

    def unlike(self, keys: torch.Tensor, named: float, same: float) -> list[int]:
        """The templates that ask something else than a fact with ``keys``, the most like it first.

        Left out are paraphrases of the fact's own question, and questions that are never asked
        together with it and whose mean similarity is at least ``named``: the same question about
        another type of subject. ``same``: from which similarity a template asks the fact's
        question.
        """
        if not self.texts:
            return []
        similarity = self.centroids @ keys.T  # [templates, keys]
        order = similarity[:, 0].argsort(descending=True)
        if float(similarity[order[0], 0]) >= same:
            own = self.questions[order[0]]
            mean = torch.zeros(len(self.beside)).scatter_reduce(
                0, self.questions, similarity.amax(1), "mean", include_self=False
            )
            alike = ~self.beside[own] & (mean >= named)
            alike[own] = True
            order = order[~alike[self.questions[order]]]
        return [int(i) for i in order]


class _UnionFind:
    """Texts in disjoint sets; a set is known by the text that came first."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def root(self, text: str) -> str:
        while (parent := self._parent.setdefault(text, text)) != text:
            text = parent
        return text

    def join(self, texts: Iterable[str]) -> None:
        """Put ``texts``, and all that were joined with one of them, into one set."""
        first = ""
        for text in texts:
            root = self.root(text)
            first = first or root
            self._parent[root] = first
