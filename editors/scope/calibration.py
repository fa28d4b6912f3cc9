"""What it is to ask the same thing in other words, learnt once for a base.

The base's states at the last prompt token differ between phrasings of one question, and differ
between questions about one subject. Groups of phrasings of known facts show which difference is
which. Fisher's linear discriminant, conditioned on the subject, keeps the few directions along
which questions about one subject differ most for how little the phrasings of one question do. It is
fitted in closed form; nothing in it is about any edit.

The groups leave one thing more: their prompts with the subject cut out, as templates. Put to the
subject of an edit, those that ask something else are the hard negatives that the edit's keys
compete with (:mod:`editors.scope.questions`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from editors.errors import EditorError, StateMismatch
from editors.inference.hidden_states import last_token_states
from editors.model.base_model import Base
from editors.model.tokenization import encode_prompts
from editors.scope.phrasings import Phrasings
from editors.scope.questions import SUBJECT, Templates

MIN_GROUPS = 10
FOLDS = 3
SPAN = 1024  # directions of the data that the discriminant looks at
SPAN_PASSES = 2  # over the data, to find them
SHRINKAGE = 1.0  # how far the spread of phrasings is pulled towards equal spread everywhere
SAME = 0.05  # share of near misses that pass for the same question
ALONE = 0.01  # share of near misses that may pass where no hard negative competes


@dataclass(frozen=True, slots=True)
class CalibrationSettings:
    """``rank``: width of a key; ``false_open``: share of near misses that may pass the threshold
    before hard negatives compete."""

    rank: int
    false_open: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How states become keys, and how near two keys must be to ask the same.

    ``layers``: the blocks after which states are read; ``centre``: float32 ``[layers, hidden]``;
    ``projection``: float32 ``[layers * hidden, rank]``. Thresholds on cosine: ``named`` for a
    prompt that names the fact's subject, ``unnamed`` for facts without a subject, which every
    prompt may be about, ``same`` from which two prompts on one subject count as one question.
    """

    layers: tuple[int, ...]
    centre: torch.Tensor
    projection: torch.Tensor
    named: float
    unnamed: float
    same: float
    templates: Templates

    def keys(self, states: torch.Tensor) -> torch.Tensor:
        """``[n, layers, hidden]`` -> ``[n, rank]`` of length 1."""
        return F.normalize(_centred(states, self.centre) @ self.projection, dim=-1)

    def hard_negatives(self, keys: torch.Tensor, subject: str, count: int) -> list[str]:
        """The ``count`` templates most like a fact that ask something else, put to ``subject``.

        ``keys``: float32 ``[n, rank]``, the fact's own, that of its prompt first.
        """
        chosen = self.templates.unlike(keys, self.named, self.same)[:count]
        return [self.templates.texts[i].replace(SUBJECT, subject) for i in chosen]

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of it as tensors; texts as the UTF-8 bytes of a JSON list."""
        texts = json.dumps(self.templates.texts).encode()
        return {
            "layers": torch.tensor(self.layers),
            "centre": self.centre,
            "projection": self.projection,
            "thresholds": torch.tensor([self.named, self.unnamed, self.same]),
            "templates": torch.tensor(list(texts), dtype=torch.uint8),
            "centroids": self.templates.centroids,
            "questions": self.templates.questions,
            "beside": self.templates.beside,
        }

    @staticmethod
    def from_tensors(tensors: Mapping[str, torch.Tensor]) -> Calibration:
        """What :meth:`tensors` gave; raises StateMismatch where a part is missing."""
        try:
            named, unnamed, same = tensors["thresholds"].tolist()
            texts = tuple(json.loads(bytes(tensors["templates"].tolist())))
            return Calibration(
                tuple(tensors["layers"].tolist()),
                tensors["centre"],
                tensors["projection"],
                named,
                unnamed,
                same,
                Templates(texts, tensors["centroids"], tensors["questions"], tensors["beside"]),
            )
        except KeyError as missing:
            raise StateMismatch(
                f"the calibration of the scope lacks {missing.args[0]!r}", "`editcli verify`"
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
        EditorError: fewer than ``MIN_GROUPS`` groups.
    """
    if len(groups) < MIN_GROUPS:
        raise EditorError(
            f"calibration needs at least {MIN_GROUPS} groups of phrasings, not {len(groups)}"
        )
    width = min(len(group.prompts) for group in groups)
    texts: list[str] = []
    for i, group in enumerate(groups):
        texts += group.prompts[:width]
        texts.append(f"{prefixes[i % len(prefixes)]} {group.prompts[i % width]}")
    layers = key_layers(base)
    states = last_token_states(base, encode_prompts(base.tokenizer, texts), layers)
    centre = states.mean(0)
    flat = _centred(states, centre)  # [groups * forms, layers * hidden]
    basis = _span(flat)
    forms = (flat @ basis).view(len(groups), width + 1, -1)  # [groups, forms, span]
    subjects = {s: i for i, s in enumerate(dict.fromkeys(group.subject for group in groups))}
    subject_of = torch.tensor([subjects[group.subject] for group in groups])
    near, far = _held_out_scores(forms, subject_of, settings.rank)
    directions = _discriminant(forms, subject_of, settings.rank)
    templates = Templates.of(groups, F.normalize(forms @ directions, dim=-1))
    named = _exceeded_by(near, settings.false_open if templates.texts else ALONE)
    return Calibration(
        tuple(layers),
        centre,
        basis @ directions,
        named,
        max(named, _exceeded_by(far, ALONE)),
        max(named, _exceeded_by(near, SAME)),
        templates,
    )


def key_layers(base: Base) -> list[int]:
    """The blocks whose states make a key: at most eight, from the first quarter of the model to the
    block below the edited one, so that a forward is decided on before it gets there."""
    last = max(base.layer - 1, 0)
    first = min((len(base.architecture.blocks) - 1) / 4, last)
    return sorted({round(first + (last - first) * i / 7) for i in range(8)})


def _centred(states: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """``[n, layers, hidden]`` -> ``[n, layers * hidden]``: centred, each layer of equal length."""
    unit = F.normalize(states - centre, dim=-1)
    flat: torch.Tensor = (unit / unit.shape[1] ** 0.5).flatten(1)
    return flat


def _span(data: torch.Tensor) -> torch.Tensor:
    """float32 ``[width, span]``: an orthonormal basis of the directions that ``data`` ``[n,
    width]`` spreads along most. A large model's states are far wider than the data are many."""
    count, width = data.shape
    if width <= SPAN:
        return torch.eye(width)
    if count <= SPAN:
        basis: torch.Tensor = torch.linalg.qr(data.T).Q
        return basis
    # Block power iteration: only the space matters, so no singular vectors are needed.
    basis = torch.randn(width, SPAN, generator=torch.Generator().manual_seed(0))
    for _ in range(SPAN_PASSES):
        basis = torch.linalg.qr(data.T @ (data @ basis)).Q
    return basis


def _discriminant(forms: torch.Tensor, subject_of: torch.Tensor, rank: int) -> torch.Tensor:
    """float32 ``[span, rank]``: the leading directions of Fisher's discriminant.

    Within: the spread of the forms of a group around their mean. Between: the differences of the
    means of groups on one subject (of all groups, where no subject has two).
    ``forms``: ``[groups, forms, span]``; ``subject_of``: the subject of each group.
    """
    forms = forms.double()
    means = forms.mean(1)  # [groups, span]
    inside = (forms - means[:, None]).flatten(0, 1)
    within = inside.T @ inside / len(inside)
    pairs = (subject_of[:, None] == subject_of[None, :]).double()
    if int(pairs.sum()) == len(pairs):  # no subject has two groups
        pairs = torch.ones_like(pairs)
    # Sum over pairs of (a - b)(a - b)^T, without forming the pairs: the Laplacian of their graph.
    laplacian = torch.diag(pairs.sum(1)) - pairs
    count = (pairs.sum() - len(pairs)) / 2
    between = means.T @ laplacian @ means / count
    even = within.trace() / len(within) * torch.eye(len(within), dtype=torch.float64)
    root = torch.linalg.cholesky(within + SHRINKAGE * even)
    half = torch.linalg.solve_triangular(root, between, upper=False)
    ratio = torch.linalg.solve_triangular(root, half.T, upper=False)
    leading = torch.linalg.eigh((ratio + ratio.T) / 2).eigenvectors[:, -rank:]
    directions: torch.Tensor = torch.linalg.solve_triangular(root.T, leading, upper=True)
    return directions.float()


def _held_out_scores(
    forms: torch.Tensor, subject_of: torch.Tensor, rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """How near forms come to other groups, on the same subject and on any, where the discriminant
    was not fitted on the subject (or the group, where there are too few subjects to leave out)."""
    enough = int(subject_of.max()) + 1 >= 2 * FOLDS
    fold_of = (subject_of if enough else torch.arange(len(forms))) % FOLDS
    near, far = [], []
    for fold in range(FOLDS):
        held = fold_of == fold
        directions = _discriminant(forms[~held], subject_of[~held], rank)
        same_subject, any_subject = _nearest_others(forms[held] @ directions, subject_of[held])
        near.append(same_subject)
        far.append(any_subject)
    scores = torch.cat(far)
    return (torch.cat(near) if any(map(len, near)) else scores), scores


def _nearest_others(
    projected: torch.Tensor, subject_of: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each form, its nearest form in another group: on the same subject, and on any.

    ``projected``: ``[groups, forms, rank]``. Forms without such a group are left out.
    """
    keys = F.normalize(projected, dim=-1)
    scores = torch.stack([(group @ keys.mT).amax(-1) for group in keys])  # [own, other, forms]
    own = torch.eye(len(keys), dtype=torch.bool)[..., None]
    elsewhere = (subject_of[:, None] != subject_of[None, :])[..., None]
    far = scores.masked_fill(own, -1.0).amax(1).flatten()
    near = scores.masked_fill(own | elsewhere, -1.0).amax(1).flatten()
    return near[near > -1], far[far > -1]


def _exceeded_by(scores: torch.Tensor, share: float) -> float:
    """The score that a ``share`` of ``scores`` lies above."""
    rank = min(len(scores) - 1, int(len(scores) * (1 - share)))
    return float(scores.sort().values[rank])
