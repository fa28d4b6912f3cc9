"""Calibration of keys: learns, once for a base, when two prompts ask the same question.

The hidden states of the base at the last prompt token differ between phrasings of one question, and
they differ between questions about one subject. Groups of phrasings of common facts show both kinds
of difference. Fisher's linear discriminant, conditioned on the subject, finds the few directions
along which questions about one subject differ most, relative to the phrasings of one question. It
is fitted in closed form, without any edit.

The prompts of the groups also serve as templates, with the subject cut out. Templates that ask
something else, filled with the subject of an edit, are the hard negatives of the edit
(:mod:`editors.scope.key.questions`).
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch.nn import functional as F

from editors.errors import EditorError, StateMismatch
from editors.inference.hidden_states import last_token_states
from editors.model.base_model import Base
from editors.model.tokenization import encode_prompts
from editors.scope.base import Settings, Tensors
from editors.scope.corpus import Corpus
from editors.scope.key.questions import SUBJECT, Templates, numbered
from editors.scope.unrelated_prompts import UnrelatedPrefixes

MIN_GROUPS = 10
FOLDS = 3
SPAN = 1024  # directions of the data that the discriminant is fitted in
SPAN_PASSES = 2  # over the data, to find these directions
SHRINKAGE = 1.0  # weight of a spherical covariance that is added to that of phrasings
SAME = 0.05  # the share of near misses that count as the same question
ALONE = 0.01  # the share of near misses that may pass where there are no hard negatives


class Calibration:
    """How states become keys, and how similar the keys of one question are.

    ``layers``: the blocks whose outputs are read; ``centre``: float32 ``[layers, hidden]``, the
    mean state; ``projection``: float32 ``[layers * hidden, rank]``. Thresholds on cosine:
    ``named``, for prompts that name the subject of the fact; ``unnamed``, for facts without a
    subject; ``same``, above which two prompts about one subject count as one question.
    """

    def __init__(self, tensors: Tensors) -> None:
        """``tensors``: the result of :func:`calibrate`; raises StateMismatch if a part is
        missing."""
        try:
            self.layers: tuple[int, ...] = tuple(tensors["layers"].tolist())
            self.centre, self.projection = tensors["centre"], tensors["projection"]
            self.named, self.unnamed, self.same = tensors["thresholds"].tolist()
            texts = tuple(json.loads(bytes(tensors["templates"].tolist())))
            parts = (tensors[name] for name in ("centroids", "questions", "beside"))
            self.templates = Templates(texts, *parts)
        except KeyError as missing:
            raise StateMismatch(
                f"the calibration of the scope lacks {missing.args[0]!r}", "`editcli verify`"
            ) from missing

    def keys(self, states: torch.Tensor) -> torch.Tensor:
        """The keys of ``states`` ``[n, layers, hidden]``: ``[n, rank]``, of length 1."""
        return F.normalize(_centred(states, self.centre) @ self.projection, dim=-1)

    def hard_negatives(self, keys: torch.Tensor, subject: str, count: int) -> list[str]:
        """The ``count`` templates most similar to a fact that ask something else, with ``subject``.

        ``keys``: float32 ``[n, rank]``, the keys of the fact, the key of its prompt first.
        """
        chosen = self.templates.unlike(keys, self.named, self.same)[:count]
        return [self.templates.texts[i].replace(SUBJECT, subject) for i in chosen]


def depends_on(base: Base, settings: Settings) -> list[Any]:
    """What a calibration depends on besides the corpus."""
    return [base.fingerprint(), base.layer, settings["rank"], settings["false_open"]]


def calibrate(
    base: Base,
    corpus: Corpus,
    prefixes: UnrelatedPrefixes,
    settings: Settings,
) -> dict[str, torch.Tensor]:
    """Fit the projection on the groups of ``corpus`` and set the thresholds: a
    :class:`Calibration` as named tensors. Texts are the UTF-8 bytes of a JSON list.

    Each group gets one more form, a phrasing with a prefix. ``settings``: see
    :class:`editors.scope.settings.ScopeSettings`.

    Raises:
        EditorError: there are fewer than ``MIN_GROUPS`` groups, or a prompt cannot be encoded.
    """
    groups = corpus.groups
    if len(groups) < MIN_GROUPS:
        raise EditorError(
            f"calibration needs at least {MIN_GROUPS} groups of phrasings, not {len(groups)}"
        )
    rank = int(settings["rank"])
    width = min(len(group.prompts) for group in groups)
    texts: list[str] = []
    for i, group in enumerate(groups):
        texts += group.prompts[:width]
        texts.append(f"{prefixes.all[i % len(prefixes.all)]} {group.prompts[i % width]}")
    layers = key_layers(base)
    states = last_token_states(base, encode_prompts(base.tokenizer, texts), layers)
    centre = states.mean(0)
    flat = _centred(states, centre)  # [groups * forms, layers * hidden]
    basis = _span(flat)
    forms = (flat @ basis).view(len(groups), width + 1, -1)  # [groups, forms, span]
    subject_of = torch.tensor(numbered(group.subject for group in groups))
    near, far = _held_out_scores(forms, subject_of, rank)
    directions = _discriminant(forms, subject_of, rank)
    templates = Templates.of(groups, F.normalize(forms @ directions, dim=-1))
    named = _exceeded_by(near, float(settings["false_open"]) if templates.texts else ALONE)
    unnamed, same = (max(named, _exceeded_by(*limit)) for limit in ((far, ALONE), (near, SAME)))
    return {
        "layers": torch.tensor(layers),
        "centre": centre,
        "projection": basis @ directions,
        "thresholds": torch.tensor([named, unnamed, same]),
        "templates": torch.tensor(list(json.dumps(templates.texts).encode()), dtype=torch.uint8),
        "centroids": templates.centroids,
        "questions": templates.questions,
        "beside": templates.share_subject,
    }


def key_layers(base: Base) -> list[int]:
    """The blocks whose outputs make a key: at most eight, from the first quarter of the model to
    the block below the edited one. So an answering forward is decided before it reaches the edit.
    """
    last = max(base.layer - 1, 0)
    first = min((len(base.architecture.blocks) - 1) / 4, last)
    return sorted({round(first + (last - first) * i / 7) for i in range(8)})


def _centred(states: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """``[n, layers, hidden]`` -> ``[n, layers * hidden]``: centred, and scaled so that all layers
    have equal length and the whole has length 1."""
    unit = F.normalize(states - centre, dim=-1)
    return torch.flatten(unit / unit.shape[1] ** 0.5, 1)


def _span(data: torch.Tensor) -> torch.Tensor:
    """float32 ``[width, span]``: an orthonormal basis of the directions in which ``data`` ``[n,
    width]`` varies most. A large model has states that are far wider than ``n``."""
    count, width = data.shape
    if width <= SPAN:
        return torch.eye(width)
    if count <= SPAN:
        basis: torch.Tensor = torch.linalg.qr(data.T).Q
        return basis
    # Block power iteration. Only the spanned space matters, so singular vectors are not needed.
    basis = torch.randn(width, SPAN, generator=torch.Generator().manual_seed(0))
    for _ in range(SPAN_PASSES):
        basis = torch.linalg.qr(data.T @ (data @ basis)).Q
    return basis


def _discriminant(forms: torch.Tensor, subject_of: torch.Tensor, rank: int) -> torch.Tensor:
    """float32 ``[span, rank]``: the leading directions of Fisher's discriminant.

    Its covariance within classes is that of the forms of a group around their mean. Its covariance
    between classes is that of differences between the means of groups about one subject (of all
    groups, if no subject has two). ``forms``: ``[groups, forms, span]``; ``subject_of``:
    ``[groups]``, the number of each group's subject.
    """
    forms = forms.double()
    means = forms.mean(1)  # [groups, span]
    deviations = (forms - means[:, None]).flatten(0, 1)
    within = deviations.T @ deviations / len(deviations)
    pairs = (subject_of[:, None] == subject_of[None, :]).double()
    if int(pairs.sum()) == len(pairs):  # no subject has two groups
        pairs = torch.ones_like(pairs)
    # The Laplacian of the graph of pairs gives the sum of (a - b)(a - b)^T over all pairs.
    laplacian = torch.diag(pairs.sum(1)) - pairs
    count = (pairs.sum() - len(pairs)) / 2
    between = means.T @ laplacian @ means / count
    spherical = within.trace() / len(within) * torch.eye(len(within), dtype=torch.float64)
    root = torch.linalg.cholesky(within + SHRINKAGE * spherical)
    half = torch.linalg.solve_triangular(root, between, upper=False)
    ratio = torch.linalg.solve_triangular(root, half.T, upper=False)
    leading = torch.linalg.eigh((ratio + ratio.T) / 2).eigenvectors[:, -rank:]
    directions: torch.Tensor = torch.linalg.solve_triangular(root.T, leading, upper=True)
    return directions.float()


def _held_out_scores(
    forms: torch.Tensor, subject_of: torch.Tensor, rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The similarities of forms to the nearest form of another group: about the same subject, and
    about any subject.

    Cross-validated: the discriminant is not fitted on the subject (or on the group, if there are
    too few subjects to leave some out).
    """
    by_subject = int(subject_of.max()) + 1 >= 2 * FOLDS
    fold_of = (subject_of if by_subject else torch.arange(len(forms))) % FOLDS
    scores = []
    for fold in range(FOLDS):
        held_out = fold_of == fold
        directions = _discriminant(forms[~held_out], subject_of[~held_out], rank)
        scores.append(_nearest_others(forms[held_out] @ directions, subject_of[held_out]))
    near, far = (torch.cat(of_folds) for of_folds in zip(*scores, strict=True))
    return (near if len(near) else far), far


def _nearest_others(
    projected: torch.Tensor, subject_of: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each form, the cosine of the nearest form of another group: about the same subject, and
    about any subject.

    ``projected``: ``[groups, forms, rank]``. Forms without such a group are left out.
    """
    keys = F.normalize(projected, dim=-1)
    scores = torch.stack([(group @ keys.mT).amax(-1) for group in keys])  # [own, other, forms]
    same_group = torch.eye(len(keys), dtype=torch.bool)[..., None]
    other_subject = (subject_of[:, None] != subject_of[None, :])[..., None]
    far = scores.masked_fill(same_group, -1.0).amax(1).flatten()
    near = scores.masked_fill(same_group | other_subject, -1.0).amax(1).flatten()
    return near[near > -1], far[far > -1]


def _exceeded_by(scores: torch.Tensor, share: float) -> float:
    """The score that a ``share`` of ``scores`` exceeds."""
    rank = min(len(scores) - 1, int(len(scores) * (1 - share)))
    return float(scores.sort().values[rank])
