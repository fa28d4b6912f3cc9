"""Teaching the router what it is to ask the same thing in other words.

The base's states at the last prompt token differ between phrasings of one question, and differ
between questions about one subject. Groups of phrasings of known facts show which difference is
which: Fisher's linear discriminant, conditioned on the subject, keeps the few directions along
which questions about one subject differ most for how little phrasings of one question do. It is
fitted once for a base, in closed form, and kept with the edits; nothing in it is about any edit.

The groups leave one more thing: their prompts without the subject, as templates. Put to the subject
of an edit, those that ask something else are the near misses that the edit's keys compete with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from editors.errors import EditorError, StateMismatch
from editors.inference.hidden_states import last_states
from editors.model.base_model import Base
from editors.model.tokenization import encode_prompts

FOLDS = 3
SPAN = 1024  # directions of the data that the discriminant looks at
SAME = 0.05  # share of near misses that pass for the same question
ALONE = 0.01  # share of near misses that may pass where no rival competes
USES = 3  # a prompt put to so many subjects is a template
SUBJECT = "{s}"  # where a template takes its subject


@dataclass(frozen=True, slots=True)
class Phrasings:
    """Several ways of asking the same thing about ``subject``, and nothing else."""

    subject: str
    prompts: tuple[str, ...]

    @staticmethod
    def from_dict(row: Mapping[str, object]) -> Phrasings:
        """The group that a parsed JSON object describes.

        Raises:
            EditorError: it lacks a subject, or has fewer than two prompts.
        """
        subject, prompts = row.get("subject"), row.get("prompts")
        if not isinstance(subject, str) or not subject:
            raise EditorError(f"a group of phrasings needs a subject: {row!r}")
        if not isinstance(prompts, list) or len(prompts) < 2:
            raise EditorError(f"the phrasings of {subject!r} need at least two prompts")
        return Phrasings(subject, tuple(str(prompt) for prompt in prompts))


@dataclass(frozen=True, slots=True)
class CalibrationSettings:
    """``rank``: width of a key; ``false_open``: share of near misses that may pass the threshold
    before rivals compete; ``shrinkage``: how far the spread of phrasings is pulled towards equal
    spread in all directions.
    """

    rank: int
    false_open: float
    shrinkage: float = 1.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """What makes a key of the base's states, and from which nearness on two keys ask the same.

    ``layers``: the blocks after which states are read; ``centre``: float32 ``[layers, hidden]``;
    ``projection``: float32 ``[layers * hidden, rank]``;
    ``named``: the threshold on cosine for a prompt that names the fact's subject; ``unnamed``: for
    facts without a subject, where every prompt is a candidate; ``same``: two prompts on one subject
    that are as near as this count as one question. ``templates``: prompts with ``{s}`` for the
    subject, their mean keys ``centroids`` ``[templates, rank]`` and which of the ``questions``
    int64 ``[templates]`` each asks: those that stand in one group ask the same. ``beside`` bool
    ``[questions, questions]``: those that were both asked about one subject.
    """

    layers: tuple[int, ...]
    centre: torch.Tensor
    projection: torch.Tensor
    named: float
    unnamed: float
    same: float
    templates: tuple[str, ...]
    centroids: torch.Tensor
    questions: torch.Tensor
    beside: torch.Tensor

    def keys(self, states: torch.Tensor) -> torch.Tensor:
        """``[n, layers, hidden]`` -> ``[n, rank]`` of length 1."""
        return F.normalize(_centred(states, self.centre) @ self.projection, dim=-1)

    def rivals(self, keys: torch.Tensor, subject: str, count: int) -> list[str]:
        """The ``count`` templates most like a fact's first key that ask something else, put to
        ``subject``.

        No phrasing of the question that the fact's prompt asks is a rival, nor is a question that
        was never asked beside it and on the whole comes near enough to pass: that is the same
        asked about other kinds of things. ``keys``: ``[n, rank]``, the fact's own.
        """
        if not self.templates:
            return []
        near = self.centroids @ keys.T  # [templates, n]
        order = near[:, 0].argsort(descending=True)
        if float(near[order[0], 0]) >= self.same:
            own = self.questions[order[0]]
            whole = torch.zeros(len(self.beside)).scatter_reduce(
                0, self.questions, near.amax(1), "mean", include_self=False
            )
            alike = ~self.beside[own] & (whole >= self.named)
            alike[own] = True
            order = order[~alike[self.questions[order]]]
        return [self.templates[i].replace(SUBJECT, subject) for i in order[:count].tolist()]

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of it as tensors; the templates as the UTF-8 bytes of a JSON list."""
        return {
            "layers": torch.tensor(self.layers),
            "centre": self.centre,
            "projection": self.projection,
            "calibrated": torch.tensor([self.named, self.unnamed, self.same]),
            "templates": torch.tensor(list(json.dumps(self.templates).encode()), dtype=torch.uint8),
            "centroids": self.centroids,
            "questions": self.questions,
            "beside": self.beside,
        }

    @staticmethod
    def from_tensors(tensors: Mapping[str, torch.Tensor]) -> Calibration:
        """What :meth:`tensors` gave.

        Raises:
            StateMismatch: a part is missing, as in the stores of an earlier release.
        """
        try:
            named, unnamed, same = tensors["calibrated"].tolist()
            return Calibration(
                tuple(tensors["layers"].tolist()),
                tensors["centre"],
                tensors["projection"],
                named,
                unnamed,
                same,
                tuple(json.loads(bytes(tensors["templates"].tolist()))),
                tensors["centroids"],
                tensors["questions"],
                tensors["beside"],
            )
        except KeyError as missing:
            raise StateMismatch(
                f"the router's calibration lacks {missing.args[0]}: another release made it",
                "make another store: `editcli init`",
            ) from missing


def calibrate(
    base: Base,
    groups: Sequence[Phrasings],
    prefixes: Sequence[str],
    settings: CalibrationSettings,
) -> Calibration:
    """Fit the projection on ``groups`` and set the thresholds.

    ``prefixes``: unrelated beginnings; one phrasing of each group also stands behind one of them.

    Raises:
        EditorError: fewer than ten groups.
    """
    if len(groups) < 10:
        raise EditorError(f"calibration needs at least 10 groups of phrasings, not {len(groups)}")
    width = min(len(group.prompts) for group in groups)
    texts: list[str] = []
    for i, group in enumerate(groups):
        texts += group.prompts[:width]
        texts.append(f"{prefixes[i % len(prefixes)]} {group.prompts[i % width]}")
    layers = key_layers(base)
    states = last_states(base, encode_prompts(base.tokenizer, texts), layers)
    centre = states.mean(0)
    forms = _centred(states, centre).view(len(groups), width + 1, -1)  # [groups, forms, width]
    subjects = {s: i for i, s in enumerate(dict.fromkeys(group.subject for group in groups))}
    about = torch.tensor([subjects[group.subject] for group in groups])
    # Folds by subject; by group where there are too few subjects to leave some out.
    fold_of = about if len(subjects) >= 2 * FOLDS else torch.arange(len(groups))
    near, any_other = [], []
    for fold in range(FOLDS):  # thresholds are measured on subjects that were not fitted on
        held = fold_of % FOLDS == fold
        misses = _misses(
            forms[held] @ _discriminant(forms[~held], about[~held], settings), about[held]
        )
        near.append(misses[0])
        any_other.append(misses[1])
    far = torch.cat(any_other)
    close = torch.cat(near) if len(torch.cat(near)) else far
    projection = _discriminant(forms, about, settings)
    templates, centroids, questions, beside = _templates(
        groups, F.normalize(forms @ projection, dim=-1)
    )
    named = _threshold(close, settings.false_open if templates else ALONE)
    return Calibration(
        tuple(layers),
        centre,
        projection,
        named,
        max(named, _threshold(far, ALONE)),
        max(named, _threshold(close, SAME)),
        templates,
        centroids,
        questions,
        beside,
    )


def key_layers(base: Base) -> list[int]:
    """The blocks whose states make a key: at most eight, from the first quarter of the model to the
    block below the edited one, so that a forward knows where to go when it gets there."""
    last = max(base.layer - 1, 0)
    first = min((len(base.architecture.blocks) - 1) / 4, last)
    return sorted({round(first + (last - first) * i / 7) for i in range(8)})


def _centred(states: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """``[n, layers, hidden]`` -> ``[n, layers * hidden]``: centred, each layer of equal length."""
    unit = F.normalize(states - centre, dim=-1)
    flat: torch.Tensor = (unit / unit.shape[1] ** 0.5).flatten(1)
    return flat


def _discriminant(
    forms: torch.Tensor, about: torch.Tensor, settings: CalibrationSettings
) -> torch.Tensor:
    """float32 ``[width, rank]``: the leading directions of Fisher's discriminant.

    Within: the spread of the forms of a group around their mean. Between: the differences of the
    means of groups on one subject (of all groups, where no subject has two).
    ``forms``: ``[groups, forms, width]``; ``about``: the subject of each group.
    """
    means = forms.mean(1)  # [groups, width]
    # In the span of the data first: a large model's states are far wider than the data are many.
    basis = torch.linalg.svd(forms.flatten(0, 1), full_matrices=False).Vh[:SPAN].T  # [width, span]
    inside = ((forms - means[:, None]).flatten(0, 1) @ basis).double()
    within = inside.T @ inside / len(inside)
    pairs = about[:, None] == about[None, :]
    pairs = pairs.triu(1) if bool(pairs.triu(1).any()) else torch.ones_like(pairs).triu(1)
    one, other = pairs.nonzero(as_tuple=True)
    apart = ((means[one] - means[other]) @ basis).double()
    between = apart.T @ apart / len(apart)
    even = within.trace() / len(within) * torch.eye(len(within), dtype=torch.float64)
    root = torch.linalg.cholesky(within + settings.shrinkage * even)
    half = torch.linalg.solve_triangular(root, between, upper=False)
    ratio = torch.linalg.solve_triangular(root, half.T, upper=False)
    leading = torch.linalg.eigh((ratio + ratio.T) / 2).eigenvectors[:, -settings.rank :]
    directions = torch.linalg.solve_triangular(root.T, leading, upper=True)
    fitted: torch.Tensor = (basis.double() @ directions).float()
    return fitted


def _templates(
    groups: Sequence[Phrasings], keys: torch.Tensor
) -> tuple[tuple[str, ...], torch.Tensor, torch.Tensor, torch.Tensor]:
    """The prompts that several subjects share, the subject cut out, and their mean keys.

    ``keys``: ``[groups, forms, rank]``; the last form of a group is a prefixed one. Gives what
    :class:`Calibration` calls templates, centroids, questions and beside.
    """
    found: dict[str, dict[str, torch.Tensor]] = {}
    question: dict[str, int] = {}
    for number, (group, own) in enumerate(zip(groups, keys, strict=True)):
        together = {}
        for prompt, key in zip(group.prompts, own[:-1], strict=False):
            if prompt.count(group.subject) == 1 and SUBJECT not in prompt:
                together[prompt.replace(group.subject, SUBJECT)] = key
        joined = {question[text] for text in together if text in question}
        same = min(joined, default=number)
        if len(joined) > 1:
            question |= {text: same for text, asked in question.items() if asked in joined}
        for text, key in together.items():
            found.setdefault(text, {})[group.subject] = key
            question[text] = same
    used = {text: by_subject for text, by_subject in found.items() if len(by_subject) >= USES}
    if not used:
        no_question = torch.zeros(0, dtype=torch.long)
        return (), keys.new_zeros(0, keys.shape[-1]), no_question, torch.zeros(0, 0).bool()
    means = torch.stack([torch.stack(list(each.values())).mean(0) for each in used.values()])
    first = {number: n for n, number in enumerate(dict.fromkeys(question[text] for text in used))}
    questions = torch.tensor([first[question[text]] for text in used])
    subjects = {subject: n for n, subject in enumerate({g.subject: None for g in groups})}
    asked = torch.zeros(len(first), len(subjects))
    for text, each in used.items():
        asked[first[question[text]], [subjects[subject] for subject in each]] = 1
    return tuple(used), F.normalize(means, dim=-1), questions, asked @ asked.T > 0


def _misses(projected: torch.Tensor, about: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each form, its nearest form in another group: on the same subject, and on any.

    ``projected``: ``[groups, forms, rank]``. Forms without another group are left out.
    """
    keys = F.normalize(projected, dim=-1)
    groups = len(keys)
    scores = torch.einsum("aik,bjk->aibj", keys, keys)  # [groups, forms, groups, forms]
    scores = scores.amax(-1)  # [groups, forms, groups]
    same_group = torch.eye(groups, dtype=torch.bool)[:, None, :]
    elsewhere = (about[:, None] != about[None, :])[:, None, :]
    any_other = scores.masked_fill(same_group, -1.0).amax(-1).flatten()
    near = scores.masked_fill(same_group | elsewhere, -1.0).amax(-1).flatten()
    return near[near > -1], any_other[any_other > -1]


def _threshold(scores: torch.Tensor, false_open: float) -> float:
    """The score that a share ``false_open`` of ``scores`` lies above."""
    rank = min(len(scores) - 1, int(len(scores) * (1 - false_open)))
    return float(scores.sort().values[rank])
